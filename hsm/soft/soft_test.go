package soft_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest"
	"github.com/keyrack/keyrack/hsm/soft"
)

func TestToken(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(t *testing.T) hsm.Opener {
		path := filepath.Join(t.TempDir(), "token")
		p, err := soft.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		return func(context.Context) (hsm.Provider, error) { return soft.Open(path) }
	})
}

// newToken returns an open token and its path; with one key of each spec when keys are asked.
func newToken(t *testing.T, specs ...hsm.Spec) (*soft.Token, string, [][]byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	p, err := soft.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	var blobs [][]byte
	for _, spec := range specs {
		_, blob, err := p.Generate(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, blob)
	}
	return p, path, blobs
}

func TestItSaysThatItIsForDevelopment(t *testing.T) {
	t.Parallel()
	p, _, _ := newToken(t)
	if d := p.Describe(); d.Kind != "soft" || !d.Development || !strings.Contains(d.Warning, "development only") {
		t.Errorf("describes itself as %+v", d)
	}
}

func TestMemoryIsTheSameTokenWithoutAFile(t *testing.T) {
	t.Parallel()
	p, err := soft.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	_, blob, err := p.Generate(t.Context(), hsm.PRFSHA256)
	if err != nil {
		t.Fatal(err)
	}
	k, err := p.Load(t.Context(), blob)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := k.(hsm.PRF).PRF(t.Context(), nil, []byte("x")); err != nil || len(out) != 32 {
		t.Errorf("PRF returned %d bytes, %v", len(out), err)
	}
}

func TestThePRFIsHMAC(t *testing.T) {
	t.Parallel()
	p, path, blobs := newToken(t, hsm.PRFSHA256)
	file := read(t, path)
	secret := file[27+17 : 27+49] // FORMAT.md
	k, err := p.Load(t.Context(), blobs[0])
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= hsm.MaxPRFInput; n *= 2 {
		mac := hmac.New(sha256.New, secret)
		mac.Write(make([]byte, n))
		got, err := k.(hsm.PRF).PRF(t.Context(), nil, make([]byte, n))
		if want := mac.Sum(nil); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %x, %v; want %x", n, got, err, want)
		}
	}
}

func TestTheFileIsAsDocumented(t *testing.T) {
	t.Parallel()
	p, path, blobs := newToken(t, hsm.PRFSHA256, hsm.SignP256)
	b := read(t, path)
	sum := sha256.Sum256(b[:len(b)-32])
	switch {
	case string(b[:9]) != "keyrackS\x01", b[25] != 0, b[26] != 2, len(b) != 27+2*49+32, b[27] != 1, b[27+49] != 2:
		t.Errorf("%d bytes starting %x", len(b), b[:28])
	case !bytes.Equal(sum[:], b[len(b)-32:]):
		t.Error("the digest is another")
	case p.Describe().Serial != fmt.Sprintf("%x", b[9:25]):
		t.Error("the serial is not the token id")
	}
	want := append(append([]byte{'S'}, b[9:25]...), b[28:44]...)
	if !bytes.Equal(blobs[0], want) {
		t.Errorf("blob %x, want %x", blobs[0], want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(path + "?*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestEveryDamagedByteIsFound(t *testing.T) {
	t.Parallel()
	_, path, _ := newToken(t, hsm.PRFSHA256, hsm.SignP256)
	b := read(t, path)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x40
		refuse(t, path, bad, soft.ErrDamaged, fmt.Sprintf("byte %d", i))
	}
	for _, n := range []int{0, 1, 9, 58, len(b) - 1} {
		refuse(t, path, b[:n], soft.ErrDamaged, fmt.Sprintf("cut to %d bytes", n))
	}
	refuse(t, path, append(bytes.Clone(b), 0), soft.ErrDamaged, "one byte longer")
	refuse(t, path, make([]byte, 1<<20), soft.ErrDamaged, "a megabyte")
}

// A file with the right digest is still judged in full.
func TestWellSignedNonsenseIsRefused(t *testing.T) {
	t.Parallel()
	_, path, _ := newToken(t, hsm.PRFSHA256, hsm.SignP256)
	b := read(t, path)
	for name, spoil := range map[string]func([]byte) []byte{
		"version 2":       func(b []byte) []byte { b[8] = 2; return b },
		"another magic":   func(b []byte) []byte { b[0] = 'K'; return b },
		"three keys":      func(b []byte) []byte { b[26] = 3; return b },
		"no key":          func(b []byte) []byte { b[26] = 0; return b },
		"too many keys":   func(b []byte) []byte { b[25] = 0xff; return b },
		"spec 0":          func(b []byte) []byte { b[27] = 0; return b },
		"spec 9":          func(b []byte) []byte { b[27] = 9; return b },
		"one id twice":    func(b []byte) []byte { copy(b[27+49+1:][:16], b[28:44]); return b },
		"half a key more": func(b []byte) []byte { return append(b, make([]byte, 20)...) },
	} {
		body := spoil(bytes.Clone(b[:len(b)-32]))
		sum := sha256.Sum256(body)
		refuse(t, path, append(body, sum[:]...), soft.ErrDamaged, name)
	}
}

func refuse(t *testing.T, path string, content []byte, want error, what string) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := soft.Open(path); !errors.Is(err, want) {
		t.Errorf("%s: Open returned %v, want %v", what, err, want)
		if p != nil {
			p.Close()
		}
	}
}

// A scalar of zero or beyond the order is no key; it must not be used, and must not stop the others.
func TestScalarOutOfRange(t *testing.T) {
	t.Parallel()
	p, path, blobs := newToken(t, hsm.SignP256, hsm.PRFSHA256)
	p.Close()
	for _, fill := range []byte{0x00, 0xff} {
		b := read(t, path)
		copy(b[27+17:27+49], bytes.Repeat([]byte{fill}, 32))
		sum := sha256.Sum256(b[:len(b)-32])
		copy(b[len(b)-32:], sum[:])
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := soft.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if k, err := p.Load(t.Context(), blobs[0]); err == nil || k != nil {
			t.Errorf("scalar %x: loaded %v, %v", fill, k, err)
		}
		if _, err := p.Load(t.Context(), blobs[1]); err != nil {
			t.Errorf("the other key: %v", err)
		}
	}
}

func TestOnlyPrivateFilesAreOpened(t *testing.T) {
	t.Parallel()
	_, path, _ := newToken(t)
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o610, 0o601, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := soft.Open(path); !errors.Is(err, soft.ErrUnsafe) || !strings.Contains(err.Error(), path) {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	p, err := soft.Open(path)
	if err != nil {
		t.Fatalf("mode 0400: %v", err)
	}
	p.Close()
	if _, err := soft.Open(filepath.Dir(path)); !errors.Is(err, soft.ErrUnsafe) {
		t.Errorf("a directory: %v", err)
	}
	link := path + "-link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := soft.Open(link); err == nil {
		t.Error("a symbolic link was followed")
	}
	if _, err := soft.Open(path + "-none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	t.Parallel()
	_, path, _ := newToken(t, hsm.PRFSHA256)
	before := read(t, path)
	if _, err := soft.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a token returned %v", err)
	}
	if !bytes.Equal(read(t, path), before) {
		t.Error("the token was overwritten")
	}
	if left, _ := filepath.Glob(path + "?*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	if _, err := soft.Create(filepath.Join(path, "below", "token")); err == nil {
		t.Error("Create in a directory that is none")
	}
}

// Of two processes that make a token at one path, one wins and the other is told.
func TestCreateRaces(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	var won sync.Map
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			p, err := soft.Create(path)
			switch {
			case err == nil:
				won.Store(p.Describe().Serial, true)
				p.Close()
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p, err := soft.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if _, ok := won.Load(p.Describe().Serial); !ok || n != 1 {
		t.Errorf("%d creators won, the file's among them: %t", n, ok)
	}
}

func TestALeftoverOfACrashIsReplaced(t *testing.T) {
	t.Parallel()
	p, path, _ := newToken(t)
	if err := os.WriteFile(path+".new", []byte("half a tok"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Generate(t.Context(), hsm.PRFSHA256); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the leftover is still there: %v", err)
	}
}

func TestAnotherProcessIsNotOverwritten(t *testing.T) {
	t.Parallel()
	p, path, _ := newToken(t)
	other, err := soft.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, _, err := other.Generate(t.Context(), hsm.PRFSHA256); err != nil {
		t.Fatal(err)
	}
	theirs := read(t, path)
	if _, _, err := p.Generate(t.Context(), hsm.PRFSHA256); !errors.Is(err, soft.ErrChanged) {
		t.Errorf("Generate over another's file returned %v", err)
	}
	if !bytes.Equal(read(t, path), theirs) {
		t.Error("the other's key is gone")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Generate(t.Context(), hsm.PRFSHA256); !errors.Is(err, soft.ErrChanged) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Generate without a file returned %v", err)
	}
}

func TestATokenFillsUp(t *testing.T) {
	t.Parallel()
	p, err := soft.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 1024 {
		if _, _, err := p.Generate(t.Context(), hsm.PRFSHA256); err != nil {
			t.Fatalf("key %d: %v", i+1, err)
		}
	}
	if _, _, err := p.Generate(t.Context(), hsm.PRFSHA256); !errors.Is(err, soft.ErrFull) {
		t.Errorf("key 1025 returned %v", err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
