package audit_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/tlog"
)

// closedLog returns the disk of a closed log of batches of up to five records, and its
// checkpoint.
func closedLog(t testing.TB, records int) (*disk, []byte) {
	t.Helper()
	d := newDisk()
	l := open(t, tiny(d))
	for n := 0; n < records; {
		more := min(1+n%5, records-n)
		mustAdd(t, l, n, n+more)
		n += more
	}
	closeLog(t, l)
	return d, l.Checkpoint()
}

func wantDamage(t *testing.T, err error) *audit.Damage {
	t.Helper()
	var d *audit.Damage
	if !errors.As(err, &d) || !errors.Is(err, audit.ErrDamaged) {
		t.Fatalf("got %v, want a Damage", err)
	}
	return d
}

// TestEveryByte changes one bit of each byte of a log. Every change is found, and the place
// that is named is the right one.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	d, _ := closedLog(t, 8)
	l := open(t, tiny(d)) // a second segment
	mustAdd(t, l, 8, 11)
	mustAdd(t, l, 11, 13)
	closeLog(t, l)
	opts := audit.VerifyOptions{Keys: []tlog.Verifier{verifier(t, origin, signingKey())}}
	used := mustVerify(t, d).Segments
	for name, f := range d.names {
		if name == "checkpoint" {
			everyByte(t, d, opts, f.seen, len(f.seen), func(at int, err error) {
				if !errors.Is(err, audit.ErrCheckpoint) {
					t.Errorf("checkpoint, byte %d: %v", at, err)
				}
			})
			continue
		}
		number := slices.IndexFunc([]uint64{0, 1, 2, 3, 4, 5, 6, 7}, func(n uint64) bool { return audit.SegmentFile(n) == name })
		end := 0 // of what was written; zero behind it
		var layout []audit.Layout
		if number < used {
			var err error
			if layout, err = audit.Layouts(f.seen); err != nil || len(layout) == 0 {
				t.Fatalf("segment %d: %v", number, err)
			}
			end = layout[len(layout)-1].End
		}
		everyByte(t, d, opts, f.seen, end, func(at int, err error) {
			got := wantDamage(t, err)
			batch, record := place(layout, at)
			switch {
			case got.Segment != uint64(number), got.Batch != batch && at >= audit.HeaderBytes && number < used:
				t.Errorf("segment %d, byte %d in batch %d: found %v", number, at, batch, err)
			case record >= 0 && (int(got.First) != record || int(got.Last) != record+1):
				t.Errorf("segment %d, byte %d in record %d: found %v", number, at, record, err)
			}
		})
	}
}

// place returns the batch and the record in which a byte of a segment stands. A byte of a
// frame's length may be found as one of another record: then -1.
func place(layout []audit.Layout, at int) (batch int64, record int) {
	for i, l := range layout {
		if at < l.At || at >= l.End {
			continue
		}
		for j, r := range l.Records {
			if at >= r[0]+4 && at < r[1] {
				return int64(i), int(l.First) + j
			}
		}
		return int64(i), -1
	}
	return int64(len(layout)), -1
}

// everyByte changes one byte at a time: each of what was written, up to end, and some of the zeros of the header and behind the end.
func everyByte(t *testing.T, d *disk, opts audit.VerifyOptions, b []byte, end int, check func(at int, err error)) {
	t.Helper()
	for at := 0; at < len(b); at++ {
		if far := at >= 300 && at < audit.HeaderBytes-100 || at >= end+audit.Sector; far && len(b) > audit.HeaderBytes && at%61 != 0 {
			continue // in the midst of zeros
		}
		b[at] ^= 1 << (at % 8)
		_, err := audit.Verify(d, opts)
		b[at] ^= 1 << (at % 8)
		check(at, err)
	}
}

// TestForgedRecords changes records as someone can who knows the format but not the keys:
// everything fits, up to the roots or with them.
func TestForgedRecords(t *testing.T) {
	t.Parallel()
	const batch = 3 // records 7 to 9
	for name, change := range map[string]func([][]byte) [][]byte{
		"altered":             func(r [][]byte) [][]byte { return slices.Replace(r, 1, 2, encoded(999)) },
		"removed":             func(r [][]byte) [][]byte { return slices.Delete(r, 1, 2) },
		"all removed":         func([][]byte) [][]byte { return nil },
		"reordered":           func(r [][]byte) [][]byte { return [][]byte{r[1], r[0], r[2]} },
		"inserted":            func(r [][]byte) [][]byte { return slices.Insert(r, 1, encoded(999)) },
		"duplicated":          func(r [][]byte) [][]byte { return slices.Insert(r, 1, r[1]) },
		"emptied":             func(r [][]byte) [][]byte { return slices.Replace(r, 1, 2, []byte{}) },
		"two joined into one": func(r [][]byte) [][]byte { return slices.Replace(r, 0, 2, append(bytes.Clone(r[0]), r[1]...)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			forge := func(n int, records [][]byte) [][]byte {
				if n == batch {
					return change(records)
				}
				return records
			}
			opts := audit.VerifyOptions{Keys: []tlog.Verifier{verifier(t, origin, signingKey())}}

			d, _ := closedLog(t, 16)
			d.uncut()
			layout, err := audit.Layouts(d.bytes(audit.SegmentFile(0)))
			if err != nil || layout[batch].First != 7 {
				t.Fatalf("batch %d begins with %d, %v", batch, layout[batch].First, err)
			}
			if err := audit.Forge(d.bytes(audit.SegmentFile(0)), false, forge); err != nil {
				t.Fatal(err)
			}
			_, err = audit.Verify(d, opts)
			if got := wantDamage(t, err); got.Segment != 0 || got.Batch != batch || got.First != layout[batch].First {
				t.Errorf("roots kept: %v", err)
			}

			d, _ = closedLog(t, 16)
			d.uncut()
			if err := audit.Forge(d.bytes(audit.SegmentFile(0)), true, forge); err != nil {
				t.Fatal(err)
			}
			_, err = audit.Verify(d, opts)
			if got := wantDamage(t, err); !errors.Is(err, audit.ErrForked) && !errors.Is(err, audit.ErrTruncated) {
				t.Errorf("roots forged: %v", got)
			}
			_, err = verify(t, d)
			if got := wantDamage(t, err); got.Segment != 0 || got.Batch != batch {
				t.Errorf("roots forged, MACs checked: %v", err)
			}
			if _, err := audit.Open(tiny(d)); !errors.Is(err, audit.ErrDamaged) {
				t.Errorf("roots forged: open: %v", err)
			}
		})
	}
}

// TestForgedHeader changes one number of a batch's header and makes its check sum fit.
func TestForgedHeader(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]int{"locked": 4, "reserved": 5, "number": 47, "first": 55, "count": 59, "huge count": 56, "length": 63, "huge length": 60, "root": 64} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := closedLog(t, 30)
			b := d.bytes(audit.SegmentFile(0))
			layout, err := audit.Layouts(b)
			if err != nil {
				t.Fatal(err)
			}
			b[layout[2].At+at] ^= 1
			if at != 5 {
				audit.SumBatch(b[layout[2].At:])
			}
			_, err = audit.Verify(d, audit.VerifyOptions{Keys: []tlog.Verifier{verifier(t, origin, signingKey())}})
			if got := wantDamage(t, err); got.Segment != 0 || got.Batch != 2 {
				t.Errorf("found %v", err)
			}
		})
	}
}

// TestTruncated takes records away at the end.
func TestTruncated(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(d *disk, used int){
		"last batch": func(d *disk, used int) {
			b := d.bytes(audit.SegmentFile(uint64(used - 1)))
			layout, err := audit.Layouts(b)
			if err != nil {
				panic(err)
			}
			clear(b[layout[len(layout)-1].At:])
		},
		"last batch cut off": func(d *disk, used int) {
			f := d.names[audit.SegmentFile(uint64(used-1))]
			layout, err := audit.Layouts(f.seen)
			if err != nil {
				panic(err)
			}
			f.seen = f.seen[:layout[len(layout)-1].At]
		},
		"all batches of the last segment": func(d *disk, used int) { clear(d.bytes(audit.SegmentFile(uint64(used - 1)))[audit.HeaderBytes:]) },
		"last segment blank":              func(d *disk, used int) { clear(d.bytes(audit.SegmentFile(uint64(used - 1)))) },
		"last segment and spares removed": func(d *disk, used int) {
			for n := used - 1; n < used+2; n++ {
				delete(d.names, audit.SegmentFile(uint64(n)))
			}
		},
		"everything removed": func(d *disk, used int) {
			for n := range used + 2 {
				delete(d.names, audit.SegmentFile(uint64(n)))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := closedLog(t, 60)
			if name != "last batch cut off" {
				d.uncut()
			}
			change(d, mustVerify(t, d).Segments)
			if _, err := verify(t, d); !errors.Is(err, audit.ErrTruncated) {
				t.Errorf("verify: %v", err)
			}
			if _, err := audit.Open(tiny(d)); !errors.Is(err, audit.ErrTruncated) {
				t.Errorf("open: %v", err)
			}
		})
	}
}

// TestSegments takes whole files away or puts others in their place.
func TestSegments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		segment uint64
		change  func(d, other *disk)
	}{
		"first missing":  {0, func(d, _ *disk) { delete(d.names, audit.SegmentFile(0)) }},
		"middle missing": {1, func(d, _ *disk) { delete(d.names, audit.SegmentFile(1)) }},
		"middle blank":   {1, func(d, _ *disk) { clear(d.bytes(audit.SegmentFile(1))) }},
		"header blank":   {1, func(d, _ *disk) { clear(d.bytes(audit.SegmentFile(1))[:audit.HeaderBytes]) }},
		"shortened":      {1, func(d, _ *disk) { d.shorten(audit.SegmentFile(1), 1) }},
		"lengthened":     {1, func(d, _ *disk) { f := d.names[audit.SegmentFile(1)]; f.seen = append(f.seen, make([]byte, 8192)...) }},
		"header left":    {1, func(d, _ *disk) { f := d.names[audit.SegmentFile(1)]; f.seen = f.seen[:audit.HeaderBytes] }},
		"last batch cut": {2, func(d, _ *disk) { d.shorten(audit.SegmentFile(1), audit.Sector) }},
		"two swapped": {0, func(d, _ *disk) {
			a, b := audit.SegmentFile(0), audit.SegmentFile(1)
			d.names[a], d.names[b] = d.names[b], d.names[a]
		}},
		"a copy of another":       {1, func(d, _ *disk) { d.names[audit.SegmentFile(1)] = d.names[audit.SegmentFile(0)] }},
		"of another log":          {1, func(d, o *disk) { d.names[audit.SegmentFile(1)] = o.names[audit.SegmentFile(1)] }},
		"first of another origin": {0, func(d, o *disk) { d.names[audit.SegmentFile(0)] = o.names[audit.SegmentFile(0)] }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := closedLog(t, 60)
			other := newDisk()
			foreign := tiny(other)
			foreign.Origin = "rack.example/audit/2"
			l := open(t, foreign)
			mustAdd(t, l, 0, 60)
			closeLog(t, l)
			c.change(d, other)
			_, err := verify(t, d)
			if got := wantDamage(t, err); got.Segment != c.segment {
				t.Errorf("verify: %v", err)
			}
			if _, err := audit.Open(tiny(d)); !errors.Is(err, audit.ErrDamaged) && name != "two swapped" && name != "last batch cut" {
				t.Errorf("open: %v", err)
			}
		})
	}
}

// TestReplay puts an older, wholly valid log with its checkpoint in the place of the newer one:
// only a checkpoint kept elsewhere finds it.
func TestReplay(t *testing.T) {
	t.Parallel()
	d, old := closedLog(t, 30)
	older := d.restart(kept, nil)
	l := open(t, tiny(d))
	mustAdd(t, l, 30, 40)
	closeLog(t, l)
	newest := l.Checkpoint()

	mustVerify(t, d, old, newest, old)
	mustVerify(t, older, old)
	if _, err := verify(t, older, old, newest); !errors.Is(err, audit.ErrTruncated) {
		t.Errorf("older log: %v", err)
	}

	// The same key signs another history.
	fork := older.restart(kept, nil)
	l = open(t, tiny(fork))
	mustAdd(t, l, 50, 60)
	closeLog(t, l)
	_, err := verify(t, fork, old, newest)
	if got := wantDamage(t, err); !errors.Is(err, audit.ErrForked) || got.First != 30 || got.Last != 40 {
		t.Errorf("forked log: %v", err)
	}
}

func TestWrongCheckpoint(t *testing.T) {
	t.Parallel()
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d, note := closedLog(t, 30)
	keys := []tlog.Verifier{verifier(t, origin, signingKey())}
	other, _ := closedLog(t, 30)
	for name, c := range map[string]struct {
		opts audit.VerifyOptions
		note []byte
		want error
	}{
		"wrong key":            {audit.VerifyOptions{Keys: []tlog.Verifier{verifier(t, origin, stranger)}}, note, audit.ErrCheckpoint},
		"no key":               {audit.VerifyOptions{}, note, audit.ErrCheckpoint},
		"foreign origin":       {audit.VerifyOptions{Keys: keys, Origin: "rack.example/audit/2"}, note, audit.ErrCheckpoint},
		"missing":              {audit.VerifyOptions{Keys: keys}, nil, audit.ErrCheckpoint},
		"empty":                {audit.VerifyOptions{Keys: keys}, []byte{}, audit.ErrCheckpoint},
		"huge":                 {audit.VerifyOptions{Keys: keys}, make([]byte, 1<<20), audit.ErrCheckpoint},
		"expected is damaged":  {audit.VerifyOptions{Keys: keys, Expect: [][]byte{note[:len(note)-3]}}, note, audit.ErrCheckpoint},
		"expected is of other": {audit.VerifyOptions{Keys: keys, Expect: [][]byte{other.bytes("checkpoint")}}, note, nil},
		"expected elsewhere":   {audit.VerifyOptions{Keys: keys, Expect: [][]byte{foreignNote(t)}}, note, audit.ErrCheckpoint},
	} {
		t.Run(name, func(t *testing.T) {
			d := d.restart(kept, nil)
			delete(d.names, "checkpoint")
			if c.note != nil {
				d.names["checkpoint"] = &inode{seen: c.note}
			}
			if _, err := audit.Verify(d, c.opts); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	config := tiny(d.restart(kept, nil))
	config.Signer = signer(stranger)
	if _, err := audit.Open(config); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("open with another signer: %v", err)
	}
	delete(d.names, "checkpoint")
	if _, err := audit.Open(tiny(d)); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("open without a checkpoint: %v", err)
	}
}

// foreignNote is a checkpoint of another log by the same key.
func foreignNote(t *testing.T) []byte {
	t.Helper()
	c := tiny(newDisk())
	c.Origin = "rack.example/audit/2"
	l := open(t, c)
	mustAdd(t, l, 0, 3)
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return l.Checkpoint()
}

// TestDamagedTail changes what no checkpoint covers: the next start must not take it for the
// end of the log while something whole stands behind it.
func TestDamagedTail(t *testing.T) {
	t.Parallel()
	d := newDisk()
	l := open(t, tiny(d))
	for n := range 10 {
		mustAdd(t, l, n, n+1)
	}
	segment := audit.SegmentFile(0)
	layout, err := audit.Layouts(d.bytes(segment))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		at   int
		want error
		left int
	}{
		{"record of a batch with others behind it", layout[5].At + audit.BatchBytes + 20, audit.ErrDamaged, 0},
		{"header of a batch with others behind it", layout[5].At + 60, audit.ErrDamaged, 0},
		{"magic of a batch with others behind it", layout[5].At, audit.ErrDamaged, 0},
		{"header of the segment", 100, audit.ErrDamaged, 0},
		{"record of the last batch", layout[9].At + audit.BatchBytes + 20, nil, 9},
		{"header of the last batch", layout[9].At + 60, nil, 9},
		{"magic of the last batch", layout[9].At, nil, 9},
		{"nothing", -1, nil, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := d.restart(kept, nil)
			if c.at >= 0 {
				d.bytes(segment)[c.at] ^= 1
			}
			l, err := audit.Open(tiny(d))
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil {
				return
			}
			if s := l.State(); int(s.Durable) != c.left || s.Recovered.Records != uint64(c.left) || (s.Recovered.Dropped > 0) != (c.left == 9) || s.Recovered.Unchecked != 0 {
				t.Errorf("state: %+v", s)
			}
			closeLog(t, l)
			mustVerify(t, d)
		})
	}
}

// TestForgedTail rewrites records that no checkpoint covers, with everything but the MACs: the
// next start refuses them.
func TestForgedTail(t *testing.T) {
	t.Parallel()
	d := newDisk()
	l := open(t, tiny(d))
	mustAdd(t, l, 0, 5)
	mustAdd(t, l, 5, 9)
	d = d.restart(kept, nil)
	if err := audit.Forge(d.bytes(audit.SegmentFile(0)), true, func(n int, r [][]byte) [][]byte {
		if n == 1 {
			r[2] = encoded(999)
		}
		return r
	}); err != nil {
		t.Fatal(err)
	}
	_, err := audit.Open(tiny(d))
	if got := wantDamage(t, err); got.Batch != 1 || got.First != 5 || got.Last != 9 {
		t.Errorf("found %v", err)
	}
	locked := tiny(d)
	locked.StartKey = nil
	l = open(t, locked)
	if s := l.State(); s.Recovered.Records != 9 || s.Recovered.Unchecked != 9 {
		t.Errorf("without a key: %+v", s)
	}
}
