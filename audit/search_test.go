package audit_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/tlog"
)

const (
	minute = int64(60_000_000) // µs
	start  = int64(1_700_000_000_000_000)
)

// slowLog is a log of records a minute apart, each a batch of its own: about a dozen stand in
// a segment. Every seventh was refused. seen is told the checkpoints of each size.
func slowLog(t *testing.T, records int) (*disk, *audit.Log) {
	t.Helper()
	d := newDisk()
	l := open(t, tiny(d))
	for n := range records {
		var trail audit.Trail
		trail.Add(slow(n))
		if _, err := l.Append(&trail, false); err != nil {
			t.Fatal(err)
		}
	}
	return d, l
}

// slow is record n of a slowLog.
func slow(n int) *audit.Record {
	r := &audit.Record{Event: [16]byte{1, byte(n >> 8), byte(n)}, Time: start + int64(n)*minute, Op: uint16(1 + n%3), RequestID: uint64(n), Reason: string(bytes.Repeat([]byte{'r'}, 600))}
	if n%7 == 0 {
		r.Error = 5
	}
	return r
}

func keys(t *testing.T) audit.VerifyOptions {
	t.Helper()
	return audit.VerifyOptions{Keys: []tlog.Verifier{verifier(t, origin, signingKey())}}
}

// search returns the numbers of the records that are found.
func search(files audit.Files, opts audit.VerifyOptions, f audit.Filter) (numbers []int, s audit.Searched, r audit.Report, err error) {
	s, r, err = audit.Search(files, opts, &f, func(p audit.Position, rec *audit.Record, encoded []byte) error {
		if uint64(p) != rec.RequestID || !bytes.Equal(encoded, audit.AppendRecord(nil, rec)) {
			return errors.New("another record than its number says")
		}
		numbers = append(numbers, int(p))
		return nil
	})
	return numbers, s, r, err
}

// window is the filter of the refused records from minute a to before minute b.
func window(a, b int) audit.Filter {
	return audit.Filter{After: start + int64(a)*minute, Before: start + int64(b)*minute, Errors: []uint16{5}}
}

// TestSearch finds the same with a proof, without one, and in a log that is open, and reads no
// more of it than it must.
func TestSearch(t *testing.T) {
	t.Parallel()
	d, l := slowLog(t, 200)
	want := []int{105, 112, 119}
	live, s, next, err := searchLog(l, 0, 200, window(100, 120))
	if err != nil || next != 200 || !slices.Equal(live, want) || s.Records > 80 {
		t.Errorf("open: found %v in %+v up to %d, %v", live, s, next, err)
	}
	closeLog(t, l)
	got, s, r, err := search(d, keys(t), window(100, 120))
	if err != nil || !slices.Equal(got, want) || r.Covered != 200 || r.Size != 200 || s.Records < 100 || s.Records > 140 || s.Found != 3 {
		t.Errorf("with a key: found %v in %+v, %+v, %v", got, s, r, err)
	}
	got, s, r, err = search(d, audit.VerifyOptions{}, window(100, 120))
	if err != nil || !slices.Equal(got, want) || r.Covered != 0 || s.Records > 80 || s.Earliest > start+100*minute || s.Latest < start+119*minute {
		t.Errorf("without: found %v in %+v, %+v, %v", got, s, r, err)
	}
	all, s, r, err := search(d, keys(t), audit.Filter{})
	if err != nil || len(all) != 200 || s.Records != 200 || s.Earliest != start || r.Root != mustVerify(t, d).Root {
		t.Errorf("all: %d of %+v, %+v, %v", len(all), s, r, err)
	}
}

func searchLog(l *audit.Log, from, to audit.Position, f audit.Filter) (numbers []int, s audit.Searched, next audit.Position, err error) {
	s, next, err = l.Search(context.Background(), from, to, &f, func(p audit.Position, _ *audit.Record, _ []byte) error {
		if len(numbers) == 10 {
			return errEnough
		}
		numbers = append(numbers, int(p))
		return nil
	})
	return numbers, s, next, err
}

// TestSearchLogInParts goes on where a part of the search has ended.
func TestSearchLogInParts(t *testing.T) {
	t.Parallel()
	_, l := slowLog(t, 40)
	var all []int
	next, parts := audit.Position(3), 0
	for err := errEnough; errors.Is(err, errEnough); parts++ {
		var numbers []int
		var s audit.Searched
		before := next
		numbers, s, next, err = searchLog(l, next, 38, audit.Filter{})
		if all = append(all, numbers...); int(s.Found) != len(numbers) || int(next-before) != len(numbers) {
			t.Fatalf("found %v, %+v, from %d to %d", numbers, s, before, next)
		}
	}
	if len(all) != 35 || all[0] != 3 || all[34] != 37 || parts != 4 {
		t.Errorf("%v in %d parts", all, parts)
	}
	if _, _, next, err := searchLog(l, 3, 41, audit.Filter{}); !errors.Is(err, tlog.ErrRange) || next != 3 {
		t.Errorf("beyond the end: %d, %v", next, err)
	}
}

// TestSearchProves changes what is read: it is found, with a proof before the search ends.
func TestSearchProves(t *testing.T) {
	t.Parallel()
	for _, segment := range []uint64{7, 9} { // one with what is looked for, and one behind it
		d, l := slowLog(t, 200)
		closeLog(t, l)
		forge := func(_ int, r [][]byte) [][]byte {
			p, err := audit.ParseRecord(r[0])
			if err != nil {
				t.Fatal(err)
			}
			if p.Reason = "forged"; p.RequestID%2 == 0 {
				return [][]byte{audit.AppendRecord(nil, &p)}
			}
			return r
		}
		if err := audit.Forge(d.bytes(audit.SegmentFile(segment)), true, forge); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := search(d, keys(t), window(100, 120)); !errors.Is(err, audit.ErrDamaged) {
			t.Errorf("segment %d: %v", segment, err)
		}
	}
}

// TestSearchLeavesOlderSegments does not read what lies before the window: damage there is for
// Verify to find.
func TestSearchLeavesOlderSegments(t *testing.T) {
	t.Parallel()
	d, l := slowLog(t, 200)
	closeLog(t, l)
	d.bytes(audit.SegmentFile(1))[audit.HeaderBytes+3*audit.Sector] ^= 1 // its second batch
	if _, err := verify(t, d); err == nil {
		t.Fatal("Verify did not notice")
	}
	if got, _, _, err := search(d, keys(t), window(150, 160)); err != nil || !slices.Equal(got, []int{154}) {
		t.Errorf("found %v, %v", got, err)
	}
	if _, _, _, err := search(d, keys(t), window(0, 160)); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("with that segment: %v", err)
	}
}

// TestSearchBeforeTheCheckpoint begins earlier than the window asks for where the newest
// checkpoint covers no record of it: what is behind a checkpoint proves nothing.
func TestSearchBeforeTheCheckpoint(t *testing.T) {
	t.Parallel()
	d, l := slowLog(t, 50)
	if err := l.SignCheckpoint(); err != nil {
		t.Fatal(err)
	}
	note := bytes.Clone(d.bytes("checkpoint"))
	for n := 50; n < 200; n++ {
		var trail audit.Trail
		trail.Add(slow(n))
		if _, err := l.Append(&trail, false); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	d.names["checkpoint"] = &inode{seen: note, safe: note}
	got, s, r, err := search(d, keys(t), window(150, 160))
	if err != nil || !slices.Equal(got, []int{154}) || r.Covered != 50 || s.Records < 150 || r.Size != 200 {
		t.Errorf("found %v in %+v, %+v, %v", got, s, r, err)
	}
}

// TestSearchClockSetBack finds records of a time after which the clock was set back.
func TestSearchClockSetBack(t *testing.T) {
	t.Parallel()
	d := newDisk()
	l := open(t, tiny(d))
	for n := range 90 {
		r := slow(n)
		if n >= 45 {
			r.Time -= 1000 * minute
		}
		var trail audit.Trail
		trail.Add(r)
		if _, err := l.Append(&trail, false); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	for _, opts := range []audit.VerifyOptions{keys(t), {}} {
		if got, _, _, err := search(d, opts, window(-930, -918)); err != nil || !slices.Equal(got, []int{70, 77}) {
			t.Errorf("found %v, %v", got, err)
		}
		if got, _, _, err := search(d, opts, window(20, 30)); err != nil || !slices.Equal(got, []int{21, 28}) {
			t.Errorf("found %v, %v", got, err)
		}
	}
}

// TestProgressEndsVerify tells how far the work is, and ends it.
func TestProgressEndsVerify(t *testing.T) {
	t.Parallel()
	d, l := slowLog(t, 30)
	closeLog(t, l)
	opts := keys(t)
	opts.Progress = func(done, covered audit.Position) error {
		if covered != 30 {
			t.Errorf("the checkpoint covers %d", covered)
		}
		if done == 20 {
			return errEnough
		}
		return nil
	}
	if r, err := audit.Verify(d, opts); !errors.Is(err, errEnough) || r.Size != 20 {
		t.Errorf("%d records, %v", r.Size, err)
	}
}

// members encodes {1: first, 2: {1: [second]}, 3: {"text": third}}.
func members(first, second, third string) []byte {
	b := cbor.AppendText(append(cbor.AppendMap(nil, 3), 1), first)
	b = cbor.AppendText(cbor.AppendArray(append(cbor.AppendMap(append(b, 2), 1), 1), 1), second)
	b = cbor.AppendMap(append(b, 3), 1)
	return cbor.AppendText(cbor.AppendText(b, "text"), third)
}

func TestFilter(t *testing.T) {
	t.Parallel()
	const key, arn = "86be71ec-8076-48cc-89bb-82e341459515", "arn:aws:kms:rack-1:111122223333:key/86be71ec-8076-48cc-89bb-82e341459515"
	r := &audit.Record{
		Time: 1000, Op: 7, Principal: "arn:aws:iam::111122223333:user/team/ann", Source: "tcp 192.0.2.1:4711", Credential: [32]byte{0xab},
		RequestID: 9, Error: 5, Resource: "arn:aws:kms:rack-1:111122223333:alias/mail " + arn, Request: members("alias/first", "alias/second", "alias/third"),
	}
	hash := "sha256:ab" + string(bytes.Repeat([]byte{'0'}, 62))
	for _, c := range []struct {
		what string
		f    audit.Filter
		want bool
	}{
		{"nothing", audit.Filter{}, true},
		{"after, at", audit.Filter{After: 1000}, true},
		{"after, behind", audit.Filter{After: 1001}, false},
		{"before, at", audit.Filter{Before: 1000}, false},
		{"before, behind", audit.Filter{Before: 1001}, true},
		{"operation", audit.Filter{Ops: []uint16{3, 7}}, true},
		{"another operation", audit.Filter{Ops: []uint16{3}}, false},
		{"no operation", audit.Filter{Ops: []uint16{}}, false},
		{"error", audit.Filter{Errors: []uint16{5}}, true},
		{"success", audit.Filter{Errors: []uint16{0}}, false},
		{"request", audit.Filter{RequestID: 9}, true},
		{"another request", audit.Filter{RequestID: 8}, false},
		{"name", audit.Filter{Who: []string{"bob", "ann"}}, true},
		{"path", audit.Filter{Who: []string{"team/ann"}}, true},
		{"part of a name", audit.Filter{Who: []string{"nn"}}, false},
		{"principal", audit.Filter{Who: []string{r.Principal}}, true},
		{"credential", audit.Filter{Who: []string{hash}}, true},
		{"nobody", audit.Filter{Who: []string{""}}, false},
		{"address", audit.Filter{Source: "192.0.2.1"}, true},
		{"address and port", audit.Filter{Source: "192.0.2.1:4711"}, true},
		{"part of an address", audit.Filter{Source: "192.0.2"}, false},
		{"transport", audit.Filter{Source: "tcp"}, true},
		{"whole source", audit.Filter{Source: r.Source}, true},
		{"another address", audit.Filter{Source: "192.0.2.11"}, false},
		{"key", audit.Filter{Resource: key}, true},
		{"key's ARN", audit.Filter{Resource: arn}, true},
		{"part of a key", audit.Filter{Resource: key[1:]}, false},
		{"alias", audit.Filter{Resource: "alias/mail"}, true},
		{"part of an alias", audit.Filter{Resource: "alias/mai"}, false},
		{"in the request", audit.Filter{Resource: "alias/first"}, true},
		{"inside of it", audit.Filter{Resource: "alias/second"}, true},
		{"in a context", audit.Filter{Resource: "alias/third"}, false},
		{"both", audit.Filter{Resource: key, RequestID: 8}, false},
	} {
		if got := c.f.Matches(r); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	if six := (&audit.Record{Source: "tcp [2001:db8::1]:4711"}); !(&audit.Filter{Source: "2001:db8::1"}).Matches(six) {
		t.Error("an IPv6 address is not found")
	}
	created := &audit.Record{Resource: "*", Response: members(key, "", "")}
	if !(&audit.Filter{Resource: key}).Matches(created) {
		t.Error("the key's creation is not found")
	}
	if (&audit.Filter{Who: []string{"sha256:" + hash[7:]}}).Matches(&audit.Record{}) || (&audit.Filter{Who: []string{""}}).Matches(&audit.Record{}) {
		t.Error("a record of nobody is found")
	}
}

// TestSearchEveryWindow finds a record wherever in its segment the window ends.
func TestSearchEveryWindow(t *testing.T) {
	t.Parallel()
	d, l := slowLog(t, 72)
	defer closeLog(t, l)
	if err := l.SignCheckpoint(); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < 72; n += 7 { // 71 is the last of a segment
		for _, f := range []audit.Filter{window(n, n+1), window(n, n+30), window(n-30, n+1), {After: window(n, 0).After}, {Before: window(0, n+1).Before}} {
			f.Errors = nil
			live, _, _, err := searchLog(l, 0, 72, f)
			if err != nil && !errors.Is(err, errEnough) || !slices.Contains(live, n) && err == nil {
				t.Errorf("%+v, open: found %v, %v", f, live, err)
			}
			for _, opts := range []audit.VerifyOptions{keys(t), {}} {
				if got, _, _, err := search(d, opts, f); err != nil || !slices.Contains(got, n) {
					t.Errorf("%+v: found %v, %v", f, got, err)
				}
			}
		}
	}
}
