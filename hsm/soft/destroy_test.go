package soft_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/soft"
	"github.com/keyrack/keyrack/internal/securemem"
)

// Not parallel: the page of the replaced image must still be mapped when it is looked at.
func TestDestroyLeavesNoSecret(t *testing.T) {
	p, path, blobs := newToken(t, hsm.PRFSHA256, hsm.SignP256, hsm.PRFSHA256)
	image := p.Image()
	neighbour, err := securemem.New(len(image))
	if err != nil {
		t.Fatal(err)
	}
	defer neighbour.Free()
	secrets := make([][]byte, 3)
	for i := range secrets {
		secrets[i] = bytes.Clone(image[27+49*i+17:][:32]) // FORMAT.md
	}
	if err := p.Destroy(t.Context(), blobs[1]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image, make([]byte, len(image))) {
		t.Error("the image with the destroyed key is still in memory")
	}
	for where, b := range map[string][]byte{"file": read(t, path), "memory": p.Image()} {
		if len(b) != 27+2*49+32 || bytes.Contains(b, secrets[1]) || !bytes.Contains(b, secrets[0]) || !bytes.Contains(b, secrets[2]) {
			t.Errorf("the %s has %d bytes, the destroyed secret: %t", where, len(b), bytes.Contains(b, secrets[1]))
		}
	}
	if left, _ := filepath.Glob(path + "?*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// When the new file cannot be written, nothing has changed, in memory or on disk, and the next attempt goes through.
func TestDestroyThatFails(t *testing.T) {
	t.Parallel()
	p, path, blobs := newToken(t, hsm.PRFSHA256)
	before := read(t, path)
	if err := os.MkdirAll(filepath.Join(path+".new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context(), blobs[0]); err == nil {
		t.Error("destroyed without writing")
	}
	if _, err := p.Load(t.Context(), blobs[0]); err != nil || !bytes.Equal(read(t, path), before) {
		t.Errorf("after a Destroy that failed: %v", err)
	}
	if err := os.RemoveAll(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context(), blobs[0]); err != nil {
		t.Errorf("the second attempt: %v", err)
	}
}

// A file that another process changed is not replaced: its new keys would be lost with the one to be destroyed.
func TestDestroyDoesNotOverwriteAnother(t *testing.T) {
	t.Parallel()
	p, path, blobs := newToken(t, hsm.PRFSHA256)
	other, err := soft.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, _, err := other.Generate(t.Context(), hsm.PRFSHA256); err != nil {
		t.Fatal(err)
	}
	theirs := read(t, path)
	if err := p.Destroy(t.Context(), blobs[0]); !errors.Is(err, soft.ErrChanged) || !bytes.Equal(read(t, path), theirs) {
		t.Errorf("Destroy over another's file returned %v", err)
	}
}

func TestDestroyMakesRoom(t *testing.T) {
	t.Parallel()
	p, err := soft.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var last []byte
	for range 1024 {
		if _, last, err = p.Generate(t.Context(), hsm.PRFSHA256); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Destroy(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Generate(t.Context(), hsm.PRFSHA256); err != nil {
		t.Errorf("a token with room returned %v", err)
	}
}

// TestDestroyedForGood: what was destroyed already is said to be gone only where that is durable.
func TestDestroyedForGood(t *testing.T) {
	t.Parallel()
	p, path, blobs := newToken(t, hsm.PRFSHA256)
	for _, want := range []error{nil, hsm.ErrBlob} {
		if err := p.Destroy(t.Context(), blobs[0]); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context(), blobs[0]); err == nil || errors.Is(err, hsm.ErrBlob) {
		t.Errorf("in a folder that cannot be synced: %v", err)
	}
}
