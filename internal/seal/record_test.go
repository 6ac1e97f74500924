package seal_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

var (
	bucketKey = bytes.Repeat([]byte{5}, 32)
	place     = seal.Place{Appliance: [16]byte([]byte("appliance-id-16b")), Bucket: 0x1234, Number: 7}
	name      = []byte("\x03key\x10name")
)

func sealRecord(t *testing.T, plaintext []byte) []byte {
	t.Helper()
	r, err := seal.SealRecord([]byte("kept"), bucketKey, place, name, plaintext)
	if err != nil || string(r[:4]) != "kept" {
		t.Fatalf("SealRecord returned %q, %v", r, err)
	}
	return r[4:]
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 32, 5000} {
		plaintext := bytes.Repeat([]byte{8}, n)
		r := sealRecord(t, plaintext)
		if len(r) != n+seal.RecordOverhead || !bytes.HasPrefix(r, []byte{2, 0, 0, 0, 7}) {
			t.Errorf("%d bytes became %d, starting %x", n, len(r), r[:5])
		}
		got, err := seal.OpenRecord([]byte("kept"), bucketKey, place, name, r)
		if err != nil || string(got) != "kept"+string(plaintext) {
			t.Errorf("%d bytes: opened %q, %v", n, got, err)
		}
	}
	if bytes.Equal(sealRecord(t, nil)[5:29], sealRecord(t, nil)[5:29]) {
		t.Error("two records have one salt")
	}
}

func TestOpenRecordUsesTheGivenMemory(t *testing.T) {
	t.Parallel()
	room := make([]byte, 32)
	got, err := seal.OpenRecord(room[:0], bucketKey, place, name, sealRecord(t, make([]byte, 32)))
	if err != nil || &got[0] != &room[0] {
		t.Errorf("the plaintext went elsewhere, %v", err)
	}
}

func TestEveryByteOfARecordIsBound(t *testing.T) {
	t.Parallel()
	r := sealRecord(t, []byte("a plaintext"))
	for i := range r {
		bad := bytes.Clone(r)
		bad[i] ^= 1
		refuseRecord(t, bucketKey, place, name, bad, fmt.Sprintf("byte %d", i))
		if h, ok := seal.ParseRecord(bad); ok {
			moved := place
			moved.Number = h.Number
			refuseRecord(t, bucketKey, moved, name, bad, fmt.Sprintf("byte %d under its own number", i))
		}
	}
	for n := range len(r) {
		refuseRecord(t, bucketKey, place, name, r[:n], fmt.Sprintf("cut to %d bytes", n))
	}
}

func TestARecordOpensOnlyInItsPlace(t *testing.T) {
	t.Parallel()
	r := sealRecord(t, []byte("a plaintext"))
	moved := func(f func(*seal.Place)) seal.Place { p := place; f(&p); return p }
	for what, p := range map[string]seal.Place{
		"appliance": moved(func(p *seal.Place) { p.Appliance[15] ^= 1 }),
		"bucket":    moved(func(p *seal.Place) { p.Bucket++ }),
		"number":    moved(func(p *seal.Place) { p.Number++ }),
	} {
		refuseRecord(t, bucketKey, p, name, r, "another "+what)
	}
	for _, other := range []string{"", "\x03key\x10namf", string(name) + "\x00", string(name[1:])} {
		refuseRecord(t, bucketKey, place, []byte(other), r, fmt.Sprintf("name %q", other))
	}
	refuseRecord(t, bytes.Repeat([]byte{6}, 32), place, name, r, "another key")
}

func TestRecordKeySize(t *testing.T) {
	t.Parallel()
	if _, err := seal.SealRecord(nil, bucketKey[:31], place, name, nil); err != seal.ErrKeySize {
		t.Errorf("SealRecord returned %v", err)
	}
	if _, err := seal.OpenRecord(nil, nil, place, name, sealRecord(t, nil)); err != seal.ErrKeySize {
		t.Errorf("OpenRecord returned %v", err)
	}
}

func TestRecordMark(t *testing.T) {
	t.Parallel()
	r := sealRecord(t, []byte("a plaintext"))
	got, ok := seal.ParseRecord(r)
	want := append(bytes.Clone(r[29:45]), r[len(r)-16:]...)
	if !ok || got.Number != 7 || !bytes.Equal(got.Mark[:], want) {
		t.Errorf("ParseRecord returned %+v, %t", got, ok)
	}
	if again, _ := seal.ParseRecord(sealRecord(t, []byte("a plaintext"))); again.Mark == got.Mark {
		t.Error("two records have one mark")
	}
}

func refuseRecord(t *testing.T, key []byte, p seal.Place, name, record []byte, what string) {
	t.Helper()
	if got, err := seal.OpenRecord(nil, key, p, name, record); err != seal.ErrOpen || got != nil {
		t.Errorf("%s: OpenRecord returned %d bytes, %v", what, len(got), err)
	}
}
