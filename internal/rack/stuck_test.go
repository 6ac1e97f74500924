package rack_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestStuckRotation breaks the row of one bucket below a running appliance. A rotation then wraps all others anew and
// stays: the status says why and what to do, a check names the row, all other keys are served. Once the row is as it
// was, asking for a rotation lets the one under way go on at once.
func TestStuckRotation(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	r := racktest.Start(t, func(c *rack.Config) { c.Store = below })
	arns := createKeys(t, r, 20)
	row := bucketOf(t, r, below, arns)
	broken := bytes.Clone(row.Value)
	broken[len(broken)-1] ^= 1
	change(t, below, row.Name, broken)
	if _, err := client.Do(t.Context(), r.Operator, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{}); err != nil {
		t.Fatalf("rotate: %v", err)
	}
	s := await(t, r, func(s *applianceapi.GetStatusResponse) bool { return stuck(s) != "" })
	if says := stuck(s); !s.Rotating || !strings.Contains(says, row.Name.String()) || !strings.Contains(says, "keyrack check") {
		t.Errorf("rotating=%t, the warning is %q", s.Rotating, says)
	}
	if left := r.Appliance.Records().State().Left; left != 1 {
		t.Errorf("%d buckets are left, want the broken one", left)
	}
	report, err := r.Appliance.Records().Check(t.Context(), nil)
	if err != nil || !slices.ContainsFunc(report.Problems, func(p sealed.Problem) bool { return p.Row == row.Name }) {
		t.Errorf("check: %v, %v", report.Problems, err)
	}
	served := 0
	for _, arn := range arns {
		if use(r.Client, arn, false) == nil {
			served++
		}
	}
	if served < len(arns)-1 {
		t.Errorf("%d of %d keys are served", served, len(arns))
	}
	change(t, below, row.Name, row.Value)
	if _, err := client.Do(t.Context(), r.Operator, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{}); err == nil {
		t.Error("another rotation began before the one under way was over")
	}
	if s = await(t, r, func(s *applianceapi.GetStatusResponse) bool { return !s.Rotating }); stuck(s) != "" {
		t.Errorf("it is over, and the status says %q", stuck(s))
	}
	for _, arn := range arns {
		if err := use(r.Client, arn, false); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

// bucketOf returns the bucket row that holds the row of the first key: what a change of it writes, and a change of
// the second does not.
func bucketOf(t *testing.T, r *racktest.Rack, below keystore.Store, arns []string) keystore.Entry {
	t.Helper()
	touched := func(arn string) map[keystore.Name][]byte {
		before := buckets(t, below)
		_, err := client.Do(t.Context(), r.Client, kmsapi.UpdateKeyDescription, &kmsapi.UpdateKeyDescriptionRequest{
			KeyId: api.ParseKeyRef([]byte(arn)), Description: "changed",
		})
		if err != nil {
			t.Fatal(err)
		}
		after := buckets(t, below)
		maps.DeleteFunc(after, func(n keystore.Name, row []byte) bool { return bytes.Equal(before[n], row) })
		return after
	}
	first, second := touched(arns[0]), touched(arns[1])
	for name, row := range first {
		if _, both := second[name]; !both {
			return keystore.Entry{Name: name, Value: row}
		}
	}
	t.Fatalf("a change of a key wrote %d bucket rows, and another the same", len(first))
	return keystore.Entry{}
}

// buckets returns the bucket rows, once the outbox is empty.
func buckets(t *testing.T, below keystore.Store) (rows map[keystore.Name][]byte) {
	t.Helper()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for waiting, deadline := true, time.Now().Add(time.Minute); waiting; <-poll.C {
		if time.Now().After(deadline) {
			t.Fatal("the outbox does not become empty")
		}
		waiting, rows = false, map[keystore.Name][]byte{}
		err := below.View(t.Context(), func(reader keystore.Reader) error {
			for e, err := range reader.Scan(keystore.Name{}, keystore.Name{}) {
				if err != nil {
					return err
				}
				waiting = waiting || e.Name.Space() == keystore.SpaceOutbox
				if e.Name.Space() == keystore.SpaceBucket {
					rows[e.Name] = bytes.Clone(e.Value)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

func change(t *testing.T, store keystore.Store, name keystore.Name, value []byte) {
	t.Helper()
	if _, err := store.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(name, value) }); err != nil {
		t.Fatal(err)
	}
}

// await polls the status until it is as wanted.
func await(t *testing.T, r *racktest.Rack, done func(*applianceapi.GetStatusResponse) bool) *applianceapi.GetStatusResponse {
	t.Helper()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-poll.C {
		s, err := client.Do(t.Context(), r.Operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if done(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("the status stays %+v", s)
		}
	}
}

// stuck returns the warning of a rotation that does not go on.
func stuck(s *applianceapi.GetStatusResponse) string {
	for _, w := range s.Warnings {
		if strings.Contains(w, "rotation of the domain key is stuck") {
			return w
		}
	}
	return ""
}
