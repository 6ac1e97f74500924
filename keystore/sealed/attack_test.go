package sealed_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// wantBroken expects an ErrSealBroken, which is an ErrDamaged too, with these words.
func wantBroken(t *testing.T, what string, err error, words string) {
	t.Helper()
	if !errors.Is(err, sealed.ErrSealBroken) || !errors.Is(err, keystore.ErrDamaged) {
		t.Errorf("%s: got error %v, want ErrSealBroken", what, err)
	} else if !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %q does not say %q", what, err, words)
	}
}

type table = map[keystore.Name][]byte

// bucketOf returns the bucket of a name, and the name of its row.
func bucketOf(n keystore.Name) (uint16, keystore.Name) {
	h := mac(kdf(theKeys[1], "n1", theAppliance[:]), n.Append(nil))
	return binary.BigEndian.Uint16(h), keystore.MakeName(keystore.SpaceBucket, string(h[:2]))
}

// neighbours returns two names in one bucket.
func neighbours(t testing.TB) (a, b keystore.Name) {
	t.Helper()
	seen := make(map[uint16]int)
	for i := range 4000 {
		bucket, _ := bucketOf(name(i))
		if j, ok := seen[bucket]; ok {
			return name(j), name(i)
		}
		seen[bucket] = i
	}
	t.Fatal("4000 names are in 4000 buckets")
	return a, b
}

// story is the rows below a store in the course of its life. target is the row that is attacked;
// another row is in its bucket all the time.
type story struct {
	target, bucket                      keystore.Name
	before, old, diverged, now, deleted table
	lonely                              table // now, without the other row of the bucket ever there
}

// tell plays the story.
func tell(t *testing.T) story {
	t.Helper()
	target, neighbour := neighbours(t)
	_, bucket := bucketOf(target)
	below := keystore.NewMemory()
	s := create(t, below)
	put(t, s, neighbour, []byte("beside it"))
	put(t, s, name(5000), []byte("elsewhere"))
	tale := story{target: target, bucket: bucket, before: rows(t, below)}
	put(t, s, target, []byte("old"))
	tale.old = rows(t, below)
	tale.diverged = continued(t, tale.old, func(s *sealed.Store) { put(t, s, target, []byte("other")) })
	put(t, s, target, []byte("new"))
	tale.now = rows(t, below)
	tale.lonely = continued(t, tale.now, func(s *sealed.Store) { remove(t, s, neighbour) })
	remove(t, s, target)
	tale.deleted = rows(t, below)
	return tale
}

// continued returns what becomes of a copy of the rows.
func continued(t *testing.T, from table, f func(*sealed.Store)) table {
	t.Helper()
	below := keystore.NewMemory()
	bring(t, below, from)
	f(open(t, below, theKeys))
	return rows(t, below)
}

// attack is what somebody does to the rows below a store: rows gets the present ones and changes
// them.
type attack struct {
	what  string
	from  func(story) table // the rows before the attack
	do    func(story, table)
	live  string // words of the refusal by a store that runs
	open  string // words of the refusal by Open, "" where only a read refuses, with the words of live
	off   string // what is read when nothing is checked, "-" for no row
	scan  bool   // the Scan meets it, too
	blind bool   // Open cannot know
}

func now(s story) table     { return s.now }
func deleted(s story) table { return s.deleted }

// from brings rows of another time.
func from(of func(story) table, names ...func(story) keystore.Name) func(story, table) {
	return func(s story, rows table) {
		for _, n := range names {
			if value, ok := of(s)[n(s)]; ok {
				rows[n(s)] = value
			} else {
				delete(rows, n(s))
			}
		}
	}
}

// all brings the whole store of another time.
func all(of func(story) table) func(story, table) {
	return func(s story, rows table) {
		clear(rows)
		maps.Copy(rows, of(s))
	}
}

func record(s story) keystore.Name { return s.target }
func bucket(s story) keystore.Name { return s.bucket }
func anchored(story) keystore.Name { return anchorName }
func before(s story) table         { return s.before }
func older(s story) table          { return s.old }
func diverged(s story) table       { return s.diverged }
func lonely(s story) table         { return s.lonely }
func nothing(story) table          { return nil }

const (
	otherRecord = "is not the record that was written last"
	otherBucket = "is not the row that was written last"
	otherTime   = "are of another time"
	tooOld      = "is acknowledged"
	foreign     = "is none that this appliance made"
)

var attacks = []attack{
	{what: "replay", from: now, do: from(older, record), live: otherRecord, off: "old", scan: true},
	{what: "swap", from: now, do: from(diverged, record), live: otherRecord, off: "other", scan: true},
	{what: "hide", from: now, do: from(nothing, record), live: "was removed", off: "-"},
	{what: "bring back", from: deleted, do: from(older, record), live: "was brought back", off: "old", scan: true},
	{what: "older bucket row", from: now, do: from(older, bucket), live: otherBucket, open: otherTime, off: "new", scan: true},
	{what: "older bucket row that lists a deleted row", from: deleted, do: from(older, bucket), live: otherBucket, open: otherTime, off: "-"},
	{what: "older bucket row with its record", from: now, do: from(older, bucket, record), live: otherBucket, open: otherTime, off: "old", scan: true},
	{what: "deleted row with its bucket row", from: deleted, do: from(older, bucket, record), live: otherBucket, open: otherTime, off: "old", scan: true},
	{what: "other bucket row with its record", from: now, do: from(diverged, bucket, record), live: otherBucket, open: otherTime, off: "other", scan: true},
	{what: "bucket row from before the row", from: now, do: from(before, bucket, record), live: otherBucket, open: otherTime, off: "-"},
	{what: "hide the bucket", from: lonely, do: from(nothing, bucket, record), live: "was removed", open: otherTime, off: "-"},
	{what: "older anchor row", from: now, do: from(older, anchored), live: tooOld, open: otherTime, off: "new", scan: true},
	{what: "other anchor row of the same generation", from: now, do: from(diverged, anchored), live: foreign, open: otherTime, off: "new", scan: true},
	{what: "all but the anchor row", from: now, do: func(s story, rows table) { a := rows[anchorName]; all(older)(s, rows); rows[anchorName] = a }, live: otherBucket, open: otherTime, off: "old", scan: true},
	{what: "everything from before", from: now, do: all(older), live: tooOld, off: "old", scan: true, blind: true},
	{what: "everything from before a deletion", from: deleted, do: all(now), live: tooOld, off: "new", scan: true, blind: true},
	{what: "everything of another course of things", from: now, do: all(diverged), live: foreign, off: "other", scan: true, blind: true},
}

// edited returns the rows after an attack.
func (a attack) edited(s story) table {
	rows := maps.Clone(a.from(s))
	a.do(s, rows)
	return rows
}

// reads reads a row in every way. Only values that were read are returned, "-" for no row.
func reads(s keystore.Store, n keystore.Name, scan bool) (values map[string]string, errs map[string]error) {
	values, errs = make(map[string]string), make(map[string]error)
	note := func(how string, value []byte, err error) {
		if errors.Is(err, keystore.ErrNotFound) {
			value, err = []byte("-"), nil
		}
		values[how], errs[how] = string(value), err
	}
	viewed, err := get(s, false, n)
	note("View", viewed, err)
	updated, err := get(s, true, n)
	note("Update", updated, err)
	hidden := []byte("-")
	_, err = s.Update(context.Background(), func(tx keystore.Tx) error {
		if value, err := tx.Get(n); err == nil {
			hidden = bytes.Clone(value)
		}
		return nil
	})
	note("Update that overlooks the error", hidden, err)
	if scan {
		found, err := scanned(s, n)
		note("Scan", found, err)
	}
	return values, errs
}

// scanned returns the value that a Scan of everything gives for a row.
func scanned(s keystore.Store, n keystore.Name) (value []byte, err error) {
	value = []byte("-")
	err = s.View(context.Background(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			if e.Name == n {
				value = bytes.Clone(e.Value)
			}
		}
		return nil
	})
	return value, err
}

// live starts a store on the rows before the attack and edits them under it. A read beforehand shows
// that nothing comes of what was read earlier.
func (a attack) attackLive(t *testing.T, s story) (store *sealed.Store, below keystore.Store) {
	t.Helper()
	m := keystore.NewMemory()
	bring(t, m, a.from(s))
	store = open(t, m, theKeys)
	if got := len(rows(t, store)); got == 0 {
		t.Fatal("the store is empty before the attack")
	}
	bring(t, m, a.edited(s))
	return store, m
}

func TestAttacksAreRefused(t *testing.T) {
	t.Parallel()
	s := tell(t)
	for _, a := range attacks {
		t.Run(a.what, func(t *testing.T) {
			t.Parallel()
			store, below := a.attackLive(t, s)
			values, errs := reads(store, s.target, a.scan)
			for how, err := range errs {
				wantBroken(t, how+" gave "+values[how], err, a.live)
			}
			bring(t, below, a.from(s))
			if _, errs := reads(store, s.target, true); errors.Join(errs["View"], errs["Update"], errs["Scan"]) != nil {
				t.Errorf("after the attack: %v", errs)
			}
			a.reopen(t, s)
		})
	}
}

// reopen makes the attack while no process runs.
func (a attack) reopen(t *testing.T, s story) {
	t.Helper()
	below := keystore.NewMemory()
	defer below.Close()
	bring(t, below, a.edited(s))
	store, err := sealed.Open(t.Context(), below, theKeys, theAppliance, theNode)
	if a.open != "" {
		wantBroken(t, "Open", err, a.open)
		return
	}
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer store.Close()
	values, errs := reads(store, s.target, a.scan)
	for how, err := range errs {
		if !a.blind {
			wantBroken(t, "opened again, "+how, err, a.live)
		} else if err != nil || values[how] != a.off {
			t.Errorf("opened again, %s: %q, %v; nothing stands against a whole folder of another time yet", how, values[how], err)
		}
	}
}

// TestAttacksAreReal makes the same attacks with the checks off: each then succeeds, so what refuses
// it is the check, not an accident.
func TestAttacksAreReal(t *testing.T) {
	s := tell(t)
	sealed.SetUnchecked(true)
	defer sealed.SetUnchecked(false)
	for _, a := range attacks {
		store, below := a.attackLive(t, s)
		values, errs := reads(store, s.target, a.scan)
		again := open(t, below, theKeys)
		reopened, reopenErrs := reads(again, s.target, a.scan)
		for how := range values {
			if errs[how] != nil || reopenErrs[how] != nil || values[how] != a.off || reopened[how] != a.off {
				t.Errorf("%s, %s: read %q, %v; opened again %q, %v; want %q to be believed",
					a.what, how, values[how], errs[how], reopened[how], reopenErrs[how], a.off)
			}
		}
	}
}

// TestNothingIsWrittenOverDamage: a transaction that meets an older state root does not make it the
// newest.
func TestNothingIsWrittenOverDamage(t *testing.T) {
	t.Parallel()
	s := tell(t)
	for _, a := range attacks {
		if a.live != tooOld && a.live != foreign {
			continue
		}
		store, below := a.attackLive(t, s)
		attacked := rows(t, below)
		_, err := store.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(name(7000), []byte("v")) })
		wantBroken(t, a.what, err, a.live)
		if !maps.EqualFunc(attacked, rows(t, below), bytes.Equal) {
			t.Errorf("%s: rows were written", a.what)
		}
	}
}

// TestBrokenRowsCanBeReplaced: a row that was attacked can be written or deleted; then it is well.
func TestBrokenRowsCanBeReplaced(t *testing.T) {
	t.Parallel()
	s := tell(t)
	for _, a := range attacks {
		if a.live != otherRecord && a.open != "" || a.blind {
			continue
		}
		store, _ := a.attackLive(t, s)
		put(t, store, s.target, []byte("again"))
		if got, err := get(store, false, s.target); string(got) != "again" || err != nil {
			t.Errorf("%s, written anew: %q, %v", a.what, got, err)
		}
		store, _ = a.attackLive(t, s)
		remove(t, store, s.target)
		if _, err := get(store, false, s.target); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("%s, deleted: %v", a.what, err)
		}
		if report, err := store.Check(t.Context(), nil); err != nil || len(report.Problems) != 0 {
			t.Errorf("%s, deleted: %+v, %v", a.what, report, err)
		}
	}
}

// TestEveryBitCounts flips each bit of each row, under a store that runs and before one is opened.
func TestEveryBitCounts(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	put(t, s, name(1), []byte("one"))
	put(t, s, name(2), []byte("two"))
	_, bucket := bucketOf(name(1))
	good := rows(t, below)
	for _, n := range []keystore.Name{name(1), bucket, anchorName, nameKeyName} {
		for bit := range 8 * len(good[n]) {
			bad := bytes.Clone(good[n])
			bad[bit/8] ^= 1 << (bit % 8)
			put(t, below, n, bad)
			if n != nameKeyName {
				value, err := get(s, false, name(1))
				wantBroken(t, string(value), err, n.String())
			}
			again, err := sealed.Open(t.Context(), lent{below}, theKeys, theAppliance, theNode)
			if n != name(1) {
				wantBroken(t, "Open", err, n.String())
				continue
			}
			if err != nil {
				t.Fatalf("bit %d of %s: %v", bit, n, err)
			}
			defer again.Close()
			_, err = get(again, false, name(1))
			wantBroken(t, "opened", err, n.String())
			if got, err := get(again, false, name(2)); string(got) != "two" || err != nil {
				t.Errorf("bit %d of %s costs another row: %q, %v", bit, n, got, err)
			}
		}
		put(t, below, n, good[n])
	}
	if got, err := get(s, false, name(1)); string(got) != "one" || err != nil {
		t.Errorf("undamaged again: %q, %v", got, err)
	}
}

// TestOpenNamesWhatIsDamaged: a few rows by name, many by their number.
func TestOpenNamesWhatIsDamaged(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	for i := range 30 {
		put(t, s, name(i), []byte("v"))
	}
	good := rows(t, below)
	names := bucketNames(good)
	for _, c := range []struct{ bad, named, more int }{{2, 2, 0}, {20, 8, 12}} {
		for _, n := range names[:c.bad] {
			bad := bytes.Clone(good[n])
			bad[len(bad)-1] ^= 1
			put(t, below, n, bad)
		}
		_, err := sealed.Open(t.Context(), below, theKeys, theAppliance, theNode)
		wantBroken(t, "Open", err, names[0].String())
		if got := strings.Count(err.Error(), "bucket/"); got != c.named || strings.Contains(err.Error(), "and 12 more") != (c.more > 0) {
			t.Errorf("%d bad rows: %d are named in %q", c.bad, got, err)
		}
	}
}

// TestForeignRows: what other appliances and other places hold is not believed, even where nothing
// is compared with what was written last.
func TestForeignRows(t *testing.T) {
	s := tell(t)
	other := keystore.NewMemory()
	if err := sealed.Create(t.Context(), other, theKeys, [16]byte(count(0xb0, 16)), theNode); err != nil {
		t.Fatal(err)
	}
	stranger, err := sealed.Open(t.Context(), other, theKeys, [16]byte(count(0xb0, 16)), theNode)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	put(t, stranger, s.target, []byte("stranger"))
	strange := rows(t, other)
	sealed.SetUnchecked(true)
	defer sealed.SetUnchecked(false)
	_, elsewhere := bucketOf(name(5000))
	for what, edit := range map[string]func(table){
		"record of another appliance":     func(r table) { r[s.target] = strange[s.target] },
		"bucket row of another appliance": func(r table) { r[s.bucket] = strange[bucketNames(strange)[0]] },
		"record of another name":          func(r table) { r[s.target] = r[name(5000)] },
		"row of another bucket":           func(r table) { r[s.bucket] = r[elsewhere] },
		"bucket row in place of a record": func(r table) { r[s.target] = r[s.bucket] },
		"record in place of a bucket row": func(r table) { r[s.bucket] = r[s.target] },
		"name key in place of it":         func(r table) { r[s.bucket] = r[nameKeyName] },
		"no bucket row":                   func(r table) { delete(r, s.bucket) },
		"record cut short":                func(r table) { r[s.target] = r[s.target][:seal.RecordOverhead-1] },
		"record too long":                 func(r table) { r[s.target] = append(bytes.Clone(r[s.target]), 0) },
		"no record at all":                func(r table) { r[s.target] = []byte{} },
	} {
		below := keystore.NewMemory()
		bring(t, below, s.now)
		store := open(t, below, theKeys)
		edited := maps.Clone(s.now)
		edit(edited)
		bring(t, below, edited)
		values, errs := reads(store, s.target, true)
		for how, err := range errs {
			wantBroken(t, what+", "+how+": "+values[how], err, "")
		}
	}
}

// TestBadBucketRows are sealed by the appliance itself and yet not what a bucket row is.
func TestBadBucketRows(t *testing.T) {
	s := tell(t)
	number, _ := bucketOf(s.target)
	sealed.SetUnchecked(true)
	defer sealed.SetUnchecked(false)
	head := append([]byte{0, 0, 0, 1}, count(0, 32)...)
	low, high := count(1, 48), count(2, 48)
	for what, value := range map[string][]byte{
		"empty":               {},
		"a head alone":        head,
		"half an entry":       append(bytes.Clone(head), low[:24]...),
		"one byte more":       append(append(bytes.Clone(head), low...), 0),
		"entries in disorder": append(append(bytes.Clone(head), high...), low...),
		"an entry twice":      append(append(bytes.Clone(head), low...), low...),
		"number 0":            append(append(make([]byte, 4), count(0, 32)...), low...),
		"another bucket key":  append(bytes.Clone(head), low...),
	} {
		below := keystore.NewMemory()
		bring(t, below, s.now)
		store := open(t, below, theKeys)
		place := seal.Place{Appliance: theAppliance, Bucket: number, Number: 1}
		row, err := seal.SealRecord(nil, kdf(theKeys[1], "w1", theAppliance[:]), place, s.bucket.Append(nil), value)
		if err != nil {
			t.Fatal(err)
		}
		put(t, below, s.bucket, row)
		_, err = get(store, false, s.target)
		if what == "another bucket key" {
			wantBroken(t, what, err, s.target.String()+": does not open")
		} else {
			wantBroken(t, what, err, s.bucket.String())
		}
	}
}

// FuzzStoredRow: nothing but what was written last opens, whatever the medium answers, while a store
// runs and when one is opened.
func FuzzStoredRow(f *testing.F) {
	stored := example(f)
	bucket := bucketNames(stored)[0]
	f.Add(stored[exampleName], stored[bucket], stored[anchorName], stored[nameKeyName])
	f.Add(stored[bucket], stored[exampleName], stored[nameKeyName], stored[anchorName])
	f.Add([]byte{}, []byte{2}, make([]byte, 64), stored[nameKeyName])
	below := exampleStore(f)
	running := open(f, below, theKeys)
	f.Fuzz(func(t *testing.T, record, row, anchor, nameKey []byte) {
		_, err := below.Update(context.Background(), func(tx keystore.Tx) error {
			return errors.Join(tx.Put(exampleName, record), tx.Put(bucket, row), tx.Put(anchorName, anchor), tx.Put(nameKeyName, nameKey))
		})
		if err != nil {
			return // larger than a store takes
		}
		rooted := bytes.Equal(row, stored[bucket]) && bytes.Equal(anchor, stored[anchorName])
		intact := rooted && bytes.Equal(record, stored[exampleName])
		got, err := get(running, false, exampleName)
		if intact != (err == nil) || intact && string(got) != "a row" || err != nil && !errors.Is(err, sealed.ErrSealBroken) {
			t.Errorf("read %q, %v; intact: %v", got, err, intact)
		}
		again, err := sealed.Open(context.Background(), lent{below}, theKeys, theAppliance, theNode)
		if opens := rooted && bytes.Equal(nameKey, stored[nameKeyName]); opens != (err == nil) || err != nil && !errors.Is(err, sealed.ErrSealBroken) {
			t.Fatalf("opened: %v; intact: %v", err, opens)
		}
		if err == nil {
			defer again.Close()
			_, err := get(again, false, exampleName)
			if intact != (err == nil) {
				t.Errorf("opened again: %v; intact: %v", err, intact)
			}
		}
	})
}
