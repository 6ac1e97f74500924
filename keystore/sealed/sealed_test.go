package sealed_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
	"github.com/keyrack/keyrack/keystore/storetest"
)

// domainKey derives like a keyring that is unlocked; nil is locked.
type domainKey []byte

var errLocked = errors.New("appliance is locked")

func (k domainKey) Derive(out []byte, _ uint32, label seal.Label, context []byte) error {
	if k == nil {
		return errLocked
	}
	seal.KDF(out, k, label, context)
	return nil
}

var (
	// theKey and theAppliance are those of the example in FORMAT.md.
	theKey       = domainKey(count(0, 32))
	theAppliance = [16]byte(count(0xa0, 16))
)

// count returns n bytes that count up.
func count(from byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func name(i int) keystore.Name {
	return keystore.MakeName(keystore.SpaceMaterial, string(binary.BigEndian.AppendUint32(nil, uint32(i))))
}

func put(t *testing.T, s keystore.Store, n keystore.Name, value []byte) {
	t.Helper()
	if _, err := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(n, value) }); err != nil {
		t.Fatalf("put %s: %v", n, err)
	}
}

// rows returns all rows of a store.
func rows(t *testing.T, s keystore.Store) map[keystore.Name][]byte {
	t.Helper()
	all := make(map[keystore.Name][]byte)
	err := s.View(t.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			all[e.Name] = bytes.Clone(e.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// get reads one row, through a View or an Update.
func get(s keystore.Store, update bool, n keystore.Name) (value []byte, err error) {
	ctx := context.Background()
	if update {
		_, err = s.Update(ctx, func(tx keystore.Tx) error {
			v, err := tx.Get(n)
			value = bytes.Clone(v)
			return err
		})
		return value, err
	}
	err = s.View(ctx, func(r keystore.Reader) error {
		v, err := r.Get(n)
		value = bytes.Clone(v)
		return err
	})
	return value, err
}

func TestSealedMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) keystore.Store { return sealed.New(keystore.NewMemory(), theKey, theAppliance) })
}

// exampleName is the row of the example in FORMAT.md.
var exampleName = keystore.MakeName(keystore.SpaceAlias, "000000000042", "billing")

// example returns what FORMAT.md says that the medium holds.
func example(t testing.TB) map[keystore.Name][]byte {
	t.Helper()
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```rows\n")
	lines, _, _ := strings.Cut(rest, "```")
	all := make(map[keystore.Name][]byte)
	for line := range strings.Lines(lines) {
		encoded, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := keystore.ParseName(unhex(t, encoded))
		if err != nil {
			t.Fatalf("%q: %v", encoded, err)
		}
		all[n] = unhex(t, value)
	}
	return all
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFormatExample(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	defer below.Close()
	for n, value := range example(t) {
		put(t, below, n, value)
	}
	got, err := get(sealed.New(below, theKey, theAppliance), false, exampleName)
	if string(got) != "a row" || err != nil {
		t.Errorf("the example is %q, %v, want %q", got, err, "a row")
	}
}

// TestBelowHasNoPlaintext looks at what the medium gets: a bucket row and a record of the
// documented sizes, and the value nowhere.
func TestBelowHasNoPlaintext(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := sealed.New(below, theKey, theAppliance)
	defer s.Close()
	value := []byte("a value that should not be seen")
	put(t, s, name(1), value)
	first := rows(t, below)
	put(t, s, name(1), value)
	second := rows(t, below)
	if len(first) != 2 || len(second) != 2 || bytes.Equal(first[name(1)], second[name(1)]) {
		t.Errorf("%d rows, then %d; the same value sealed twice is equal: %v", len(first), len(second), bytes.Equal(first[name(1)], second[name(1)]))
	}
	for n, stored := range second {
		want := len(value)
		if n.Space() == keystore.SpaceBucket {
			want = 36
			if !bytes.Equal(stored, first[n]) {
				t.Error("the second write changed the bucket row")
			}
		}
		if r, ok := seal.ParseRecord(stored); !ok || r.Number != 1 || len(stored) != want+seal.RecordOverhead || bytes.Contains(stored, value[:8]) {
			t.Errorf("%s is stored as %d bytes: %x", n, len(stored), stored)
		}
	}
}

// damaged is a store with two rows in different buckets whose medium was edited.
func damaged(t *testing.T, edit func(below map[keystore.Name][]byte)) *sealed.Store {
	t.Helper()
	below := keystore.NewMemory()
	s := sealed.New(below, theKey, theAppliance)
	t.Cleanup(func() { s.Close() })
	put(t, s, name(1), []byte("one"))
	put(t, s, name(2), []byte("two"))
	edited := rows(t, below)
	if len(edited) != 4 {
		t.Fatalf("%d rows below, want two records and two buckets", len(edited))
	}
	edit(edited)
	_, err := below.Update(t.Context(), func(tx keystore.Tx) error {
		for n, value := range edited {
			if value == nil {
				tx.Delete(n)
			} else {
				tx.Put(n, value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// buckets returns the names of bucket rows, in order.
func buckets(rows map[keystore.Name][]byte) (names []keystore.Name) {
	for n := range rows {
		if n.Space() == keystore.SpaceBucket {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, keystore.Name.Compare)
	return names
}

// wantBroken reads name(1) in every way and expects a refusal that names it or its bucket.
func wantBroken(t *testing.T, s *sealed.Store) {
	t.Helper()
	_, viewed := get(s, false, name(1))
	_, updated := get(s, true, name(1))
	_, hidden := s.Update(t.Context(), func(tx keystore.Tx) error { tx.Get(name(1)); return tx.Put(name(3), nil) })
	scanned := s.View(t.Context(), func(r keystore.Reader) error {
		for _, err := range r.Scan(name(1), name(2)) {
			if err != nil {
				return err
			}
		}
		return nil
	})
	for what, err := range map[string]error{"View": viewed, "Update": updated, "Update that hides the error": hidden, "Scan": scanned} {
		if !errors.Is(err, sealed.ErrSealBroken) {
			t.Errorf("%s: got error %v, want ErrSealBroken", what, err)
		} else if !strings.Contains(err.Error(), name(1).String()) && !strings.Contains(err.Error(), "bucket/0x") {
			t.Errorf("%s: %v does not say where", what, err)
		}
	}
}

func TestDamageIsRefused(t *testing.T) {
	t.Parallel()
	foreign := func(key domainKey, appliance [16]byte) map[keystore.Name][]byte {
		below := keystore.NewMemory()
		s := sealed.New(below, key, appliance)
		defer s.Close()
		put(t, s, name(1), []byte("one"))
		put(t, s, name(2), []byte("two"))
		return rows(t, below)
	}
	bring := func(from, to map[keystore.Name][]byte) {
		for n, value := range from {
			to[n] = value
		}
	}
	otherAppliance := [16]byte(count(0xb0, 16))
	for what, edit := range map[string]func(map[keystore.Name][]byte){
		"values swapped between two names": func(r map[keystore.Name][]byte) { r[name(1)], r[name(2)] = r[name(2)], r[name(1)] },
		"rows of two buckets swapped":      func(r map[keystore.Name][]byte) { b := buckets(r); r[b[0]], r[b[1]] = r[b[1]], r[b[0]] },
		"bucket rows gone":                 func(r map[keystore.Name][]byte) { b := buckets(r); r[b[0]], r[b[1]] = nil, nil },
		"bucket row in place of a value":   func(r map[keystore.Name][]byte) { r[name(1)] = r[buckets(r)[0]] },
		"value in place of bucket rows":    func(r map[keystore.Name][]byte) { b := buckets(r); r[b[0]], r[b[1]] = r[name(1)], r[name(1)] },
		"value of another appliance":       func(r map[keystore.Name][]byte) { r[name(1)] = foreign(theKey, otherAppliance)[name(1)] },
		"all rows of another appliance":    func(r map[keystore.Name][]byte) { bring(foreign(theKey, otherAppliance), r) },
		"value under another bucket key":   func(r map[keystore.Name][]byte) { r[name(1)] = foreign(theKey, theAppliance)[name(1)] },
		"bucket rows with another key":     func(r map[keystore.Name][]byte) { f := foreign(theKey, theAppliance); delete(f, name(1)); bring(f, r) },
		"value cut short":                  func(r map[keystore.Name][]byte) { r[name(1)] = r[name(1)][:seal.RecordOverhead] },
		"value empty":                      func(r map[keystore.Name][]byte) { r[name(1)] = []byte{} },
		"value longer":                     func(r map[keystore.Name][]byte) { r[name(1)] = append(r[name(1)], 0) },
		"other number":                     func(r map[keystore.Name][]byte) { r[name(1)][4] = 2 },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			wantBroken(t, damaged(t, edit))
		})
	}
}

// TestEveryBitCounts flips each bit of a record and of its bucket row.
func TestEveryBitCounts(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := sealed.New(below, theKey, theAppliance)
	defer s.Close()
	put(t, s, name(1), []byte("one"))
	for n, good := range rows(t, below) {
		for bit := range 8 * len(good) {
			bad := bytes.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			put(t, below, n, bad)
			if got, err := get(s, false, name(1)); !errors.Is(err, sealed.ErrSealBroken) {
				t.Errorf("bit %d of %s flipped: read %q, %v", bit, n, got, err)
			}
		}
		put(t, below, n, good)
	}
	if got, err := get(s, false, name(1)); string(got) != "one" || err != nil {
		t.Errorf("undamaged again: %q, %v", got, err)
	}
}

// TestForeignDomainKey: with another key names fall into other buckets, which have no rows, or rows
// that do not open.
func TestForeignDomainKey(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	defer below.Close()
	put(t, sealed.New(below, theKey, theAppliance), name(1), []byte("one"))
	wantBroken(t, sealed.New(below, domainKey(count(1, 32)), theAppliance))
}

// TestBadBucketRows are sealed by the appliance itself and yet not what a bucket row is.
func TestBadBucketRows(t *testing.T) {
	t.Parallel()
	wrapping := make([]byte, 32)
	if err := theKey.Derive(wrapping, 1, seal.LabelBucket, theAppliance[:]); err != nil {
		t.Fatal(err)
	}
	for what, value := range map[string][]byte{
		"empty":        {},
		"short":        count(0, 35),
		"long":         count(0, 37),
		"other key":    append([]byte{0, 0, 0, 1}, count(0, 32)...),
		"other number": append([]byte{0, 0, 0, 2}, count(0, 32)...),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			wantBroken(t, damaged(t, func(r map[keystore.Name][]byte) {
				for _, n := range buckets(r) {
					place := seal.Place{Appliance: theAppliance, Bucket: binary.BigEndian.Uint16([]byte(n.Components()[0])), Number: 1}
					row, err := seal.SealRecord(nil, wrapping, place, n.Append(nil), value)
					if err != nil {
						t.Fatal(err)
					}
					r[n] = row
				}
			}))
		})
	}
}

func TestLockedAppliance(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	defer below.Close()
	put(t, sealed.New(below, theKey, theAppliance), name(1), []byte("one"))
	s := sealed.New(below, domainKey(nil), theAppliance)
	for _, update := range []bool{false, true} {
		if _, err := get(s, update, name(1)); !errors.Is(err, errLocked) {
			t.Errorf("Get: %v, want the error of the keys", err)
		}
	}
	before := rows(t, below)
	_, err := s.Update(t.Context(), func(tx keystore.Tx) error { tx.Put(name(2), []byte("two")); return nil })
	if !errors.Is(err, errLocked) {
		t.Errorf("Put: %v, want the error of the keys", err)
	}
	if after := rows(t, below); len(after) != len(before) {
		t.Errorf("%d rows below, want %d", len(after), len(before))
	}
}

// TestRawSpacesAreOutOfReach: what the layers below keep is neither read, written, listed nor told
// of through the seal.
func TestRawSpacesAreOutOfReach(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := sealed.New(below, theKey, theAppliance)
	defer s.Close()
	put(t, s, name(1), []byte("one"))
	bucket := buckets(rows(t, below))[0]
	slot := keystore.MakeName(keystore.SpaceSlot, "token")
	put(t, below, slot, []byte("slot"))
	for _, n := range []keystore.Name{bucket, slot} {
		_, viewed := get(s, false, n)
		_, got := get(s, true, n)
		_, written := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(n, nil) })
		_, deleted := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Delete(n) })
		for _, err := range []error{viewed, got, written, deleted} {
			if !errors.Is(err, keystore.ErrName) {
				t.Errorf("%s: got error %v, want ErrName", n, err)
			}
		}
	}
	if all := rows(t, s); len(all) != 1 || string(all[name(1)]) != "one" {
		t.Errorf("a Scan of everything has %q", all)
	}
	err := s.Watch(t.Context(), 0, func(_ keystore.Revision, changes []keystore.Change) error {
		if len(changes) == 0 {
			return errLocked // the end of the past
		}
		if len(changes) != 1 || changes[0].Name != name(1) {
			t.Errorf("told of %v", changes)
		}
		return nil
	})
	if err != errLocked {
		t.Errorf("Watch: %v", err)
	}
}

// TestLargestValue: a layer's limit is its own, whatever the store below could take.
func TestLargestValue(t *testing.T) {
	t.Parallel()
	s := sealed.New(keystore.NewMemory(), theKey, theAppliance)
	defer s.Close()
	_, err := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(name(1), make([]byte, keystore.MaxValue+1)) })
	if !errors.Is(err, keystore.ErrTooLarge) {
		t.Errorf("one byte too long: %v", err)
	}
}

// TestOpenedValuesAreBounded: locked memory is for all.
func TestOpenedValuesAreBounded(t *testing.T) {
	t.Parallel()
	s := sealed.New(keystore.NewMemory(), theKey, theAppliance)
	defer s.Close()
	large := make([]byte, keystore.MaxValue)
	for i := range 200 {
		value := []byte("small")
		if i < 10 {
			value = large
		}
		put(t, s, name(i), value)
	}
	hold := func(from, n int) error {
		return s.View(t.Context(), func(r keystore.Reader) error {
			for i := range 2 * n { // twice each, which counts once
				if _, err := r.Get(name(from + i%n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, c := range []struct {
		from, n int
		want    error
	}{{10, 128, nil}, {10, 129, keystore.ErrTooManyRows}, {0, 7, nil}, {0, 9, keystore.ErrTooLarge}} {
		if err := hold(c.from, c.n); !errors.Is(err, c.want) {
			t.Errorf("%d values from %d on: %v, want %v", c.n, c.from, err, c.want)
		}
	}
	if got := len(rows(t, s)); got != 200 {
		t.Errorf("a Scan, which holds one value at a time, has %d rows", got)
	}
}

// TestNothingStaysOpen opens far more than locked memory can hold, in every way a transaction can
// end.
func TestNothingStaysOpen(t *testing.T) {
	t.Parallel()
	s := sealed.New(keystore.NewMemory(), theKey, theAppliance)
	defer s.Close()
	put(t, s, name(1), make([]byte, keystore.MaxValue))
	failure := errors.New("on purpose")
	for i := range 600 {
		var err error
		switch i % 4 {
		case 0:
			_, err = get(s, false, name(1))
		case 1:
			_, err = s.Update(t.Context(), func(tx keystore.Tx) error {
				_, err := tx.Get(name(1))
				return errors.Join(err, tx.Delete(name(2)), failure)
			})
		case 2:
			err = s.View(t.Context(), func(r keystore.Reader) error {
				for _, err := range r.Scan(name(1), name(2)) {
					return err
				}
				return failure
			})
		case 3:
			err = fmt.Errorf("%v, %w", panicked(s), failure)
		}
		if err != nil && !errors.Is(err, failure) {
			t.Fatalf("transaction %d: %v", i, err)
		}
	}
}

// panicked panics in a View that holds a value.
func panicked(s keystore.Store) (value any) {
	defer func() { value = recover() }()
	return s.View(context.Background(), func(r keystore.Reader) error {
		_, err := r.Get(name(1))
		panic(err)
	})
}

// FuzzStoredRow: nothing but what was sealed opens, whatever the medium answers.
func FuzzStoredRow(f *testing.F) {
	below := keystore.NewMemory()
	s := sealed.New(below, theKey, theAppliance)
	bucket := buckets(example(f))[0]
	record, bucketRow := example(f)[exampleName], example(f)[bucket]
	f.Add(record, bucketRow)
	f.Add(bucketRow, record)
	f.Add([]byte{}, []byte{2})
	f.Fuzz(func(t *testing.T, row, wrapped []byte) {
		_, err := below.Update(context.Background(), func(tx keystore.Tx) error {
			return errors.Join(tx.Put(exampleName, row), tx.Put(bucket, wrapped))
		})
		if err != nil {
			return // larger than a store takes
		}
		got, err := get(s, false, exampleName)
		intact := bytes.Equal(row, record) && bytes.Equal(wrapped, bucketRow)
		if intact != (err == nil) || intact && string(got) != "a row" {
			t.Errorf("read %q, %v; intact: %v", got, err, intact)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	s := sealed.New(keystore.NewMemory(), theKey, theAppliance)
	defer s.Close()
	_, err := s.Update(b.Context(), func(tx keystore.Tx) error { return tx.Put(name(1), make([]byte, 256)) })
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.View(b.Context(), func(r keystore.Reader) error { _, err := r.Get(name(1)); return err }); err != nil {
			b.Fatal(err)
		}
	}
}
