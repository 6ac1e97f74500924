package appliance_test

import (
	"slices"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/service/appliance"
)

// TestSearchAuditRecords finds records in answers of a few each, as often as it is asked.
func TestSearchAuditRecords(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(*desk, *appliance.Config) {})
	at := int64(d.gate.Log.Durable())
	var trail audit.Trail
	for n := range 20 {
		trail.Add(&audit.Record{Event: [16]byte{1}, Time: 1_000_000 * int64(n+1), Op: uint16(0xfff0 + n%2), RequestID: uint64(n), Principal: "arn:aws:iam::111122223333:user/ann"})
	}
	p, err := d.gate.Log.Append(&trail, false)
	if err == nil {
		err = d.gate.Log.Wait(t.Context(), p)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		in    applianceapi.SearchAuditRecordsRequest
		want  []int64
		parts int
	}{
		{"operation", applianceapi.SearchAuditRecordsRequest{Operations: []int64{0xfff1}, From: at + 3, Limit: 3, Until: int64(p)}, []int64{3, 5, 7, 9, 11, 13, 15, 17, 19}, 3},
		{"time", applianceapi.SearchAuditRecordsRequest{After: 4_000_000, Before: 6_000_000}, []int64{3, 4}, 1},
		{"request", applianceapi.SearchAuditRecordsRequest{RequestId: 12, Who: []string{"ann"}, Operations: []int64{0xfff0}, Errors: []int64{0}}, []int64{12}, 1},
		{"nothing", applianceapi.SearchAuditRecordsRequest{RequestId: 12, Who: []string{"bob"}, Source: "192.0.2.1"}, nil, 1},
		{"until", applianceapi.SearchAuditRecordsRequest{Until: at + 2, Who: []string{"ann"}}, []int64{0, 1}, 1},
		{"beyond the end", applianceapi.SearchAuditRecordsRequest{From: 1 << 40}, nil, 1},
	} {
		got, parts := searchAll(t, d, c.in)
		for i := range got {
			got[i] -= at
		}
		if !slices.Equal(got, c.want) || parts != c.parts {
			t.Errorf("%s: found %v in %d answers", c.what, got, parts)
		}
	}
}

// searchAll asks until the search is over.
func searchAll(t *testing.T, d *desk, in applianceapi.SearchAuditRecordsRequest) (positions []int64, parts int) {
	t.Helper()
	for parts = 1; ; parts++ {
		out, err := ask(t, d, applianceapi.SearchAuditRecords, &in)
		if err != nil || len(out.Records) != len(out.Positions) {
			t.Fatalf("%+v, %v", out, err)
		}
		positions = append(positions, out.Positions...)
		if in.From, in.Until = out.Next, out.Until; out.Next >= out.Until {
			return positions, parts
		}
	}
}

// TestSearchAuditRecordsIsTheOperators refuses everybody else.
func TestSearchAuditRecordsIsTheOperators(t *testing.T) {
	t.Parallel()
	_, err := do(t, racktest.Start(t).Client, applianceapi.SearchAuditRecords, &applianceapi.SearchAuditRecordsRequest{})
	if api.KindOf(err) != api.KindAccessDenied {
		t.Errorf("got %v", err)
	}
}
