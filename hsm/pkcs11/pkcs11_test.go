//go:build cgo

package pkcs11_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	raw "github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	secret "github.com/keyrack/keyrack/internal/pin"
)

const (
	softHSM = "/usr/lib/softhsm/libsofthsm2.so"
	pin     = "1234-test"
)

// TestMain gives this process a SoftHSM of its own: SoftHSM reads its configuration from the environment, once. A process that a test
// starts with a script does what the script says instead.
func TestMain(m *testing.M) {
	if script := os.Getenv(scriptEnv); script != "" {
		os.Exit(runScript(script))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	for _, p := range []string{softHSM, "/usr/bin/softhsm2-util", "/usr/bin/pkcs11-tool"} {
		if _, err := os.Stat(p); err != nil {
			fmt.Fprintf(os.Stderr, "these tests need SoftHSM2 and OpenSC: run make setup, or apt-get install softhsm2 opensc (%v)\n", err)
			return 1
		}
	}
	memory := "/dev/shm" // SoftHSM syncs at every change
	if info, err := os.Stat(memory); err != nil || !info.IsDir() {
		memory = ""
	}
	dir, err := os.MkdirTemp(memory, "keyrack-pkcs11-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := writeConf(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // many tests are processes, which would each sleep a second at their end
	os.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "softhsm2.conf"))
	return m.Run()
}

// writeConf makes the configuration of a SoftHSM in dir.
func writeConf(dir string) error {
	conf := fmt.Sprintf("directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", dir)
	return errors.Join(os.Mkdir(filepath.Join(dir, "tokens"), 0o700), os.WriteFile(filepath.Join(dir, "softhsm2.conf"), []byte(conf), 0o600))
}

var labels atomic.Int64

// newToken makes a token in this process's SoftHSM and returns how to open it.
func newToken(t *testing.T) pkcs11.Config {
	t.Helper()
	label := fmt.Sprintf("token-%d", labels.Add(1))
	if err := pkcs11.InitToken(softHSM, label, pin); err != nil {
		t.Fatal(err)
	}
	return pkcs11.Config{Module: softHSM, Label: label, PIN: secret.Source{File: pinFile(t, pin)}}
}

func pinFile(t *testing.T, pin string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens a token until the test ends.
func open(t *testing.T, c pkcs11.Config) *pkcs11.Token {
	t.Helper()
	p, err := pkcs11.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return p.(*pkcs11.Token)
}

func generate(t *testing.T, p hsm.Provider, spec hsm.Spec) (hsm.Key, []byte) {
	t.Helper()
	k, blob, err := p.Generate(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return k, blob
}

func TestToken(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(t *testing.T) hsm.Opener {
		c := newToken(t)
		return func(ctx context.Context) (hsm.Provider, error) { return pkcs11.Open(ctx, c) }
	})
}

func TestThePRFIsHMAC(t *testing.T) {
	t.Parallel()
	p := open(t, newToken(t))
	key := bytes.Repeat([]byte{7}, 32)
	for n := 1; n <= hsm.MaxPRFInput; n *= 2 {
		want := hmac.New(sha256.New, key)
		want.Write(make([]byte, n))
		if got, err := p.MAC(key, make([]byte, n)); err != nil || !bytes.Equal(got, want.Sum(nil)) {
			t.Errorf("%d bytes: %x, %v; want %x", n, got, err, want.Sum(nil))
		}
	}
}

func TestItSaysThatSoftHSMIsNoHardware(t *testing.T) {
	t.Parallel()
	c := newToken(t)
	d := open(t, c).Describe()
	if d.Kind != "pkcs11" || !d.Development || !strings.Contains(d.Warning, "no hardware") || !strings.Contains(d.Model, c.Label) {
		t.Errorf("describes itself as %+v", d)
	}
}

// TestAnotherTool looks at the root with OpenSC: it is sensitive, was never extractable, and its value does not come out.
func TestAnotherTool(t *testing.T) {
	t.Parallel()
	c := newToken(t)
	p := open(t, c)
	_, root := generate(t, p, hsm.PRFSHA256)
	_, signer := generate(t, p, hsm.SignP256)
	tool := func(args ...string) string {
		all := append([]string{"--module", softHSM, "--token-label", c.Label, "--login", "--pin", pin}, args...)
		out, _ := exec.CommandContext(t.Context(), "pkcs11-tool", all...).CombinedOutput()
		return string(out)
	}
	list := tool("--list-objects")
	for _, blob := range [][]byte{root, signer} {
		if id := fmt.Sprintf("%x", pkcs11.IDOf(blob)); !strings.Contains(list, id) {
			t.Errorf("no object %s:\n%s", id, list)
		}
	}
	if n := strings.Count(list, "Access:     sensitive, always sensitive, never extractable, local\n"); n != 2 {
		t.Errorf("%d of 2 keys are shown as such that cannot leave the token:\n%s", n, list)
	}
	if strings.Contains(list, "VALUE:") || strings.Contains(list, "unwrap") || strings.Contains(list, "derive") || strings.Contains(list, "decrypt") {
		t.Errorf("the keys can do too much:\n%s", list)
	}
	if out := tool("--read-object", "--type", "secrkey", "--id", fmt.Sprintf("%x", pkcs11.IDOf(root))); !strings.Contains(out, "CKR_ATTRIBUTE_SENSITIVE") {
		t.Errorf("the root could be read:\n%s", out)
	}
}

// TestNoPublicKeyStays: a key is one object, which ends as one.
func TestNoPublicKeyStays(t *testing.T) {
	t.Parallel()
	p := open(t, newToken(t))
	_, blob := generate(t, p, hsm.SignP256)
	if n := count(t, p, blob); n != 1 {
		t.Errorf("a signing key is %d objects", n)
	}
	if err := p.Destroy(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	if n := count(t, p, blob); n != 0 {
		t.Errorf("a destroyed key is %d objects", n)
	}
}

// count returns how many objects have the id of blob, or with nil how many there are at all.
func count(t *testing.T, p *pkcs11.Token, blob []byte) (n int) {
	t.Helper()
	err := p.Raw(func(c *raw.Ctx, s raw.SessionHandle) error {
		var template []*raw.Attribute
		if blob != nil {
			template = append(template, raw.NewAttribute(raw.CKA_ID, pkcs11.IDOf(blob)))
		}
		if err := c.FindObjectsInit(s, template); err != nil {
			return err
		}
		all, _, err := c.FindObjects(s, 100)
		n = len(all)
		return errors.Join(err, c.FindObjectsFinal(s))
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTwoKeysOfOneID(t *testing.T) {
	t.Parallel()
	c := newToken(t)
	p := open(t, c)
	for _, spec := range []hsm.Spec{hsm.PRFSHA256, hsm.SignP256} {
		_, blob := generate(t, p, spec)
		if err := p.Plant(blob); err != nil {
			t.Fatal(err)
		}
		if k, err := p.Load(t.Context(), blob); !errors.Is(err, pkcs11.ErrTwice) || k != nil {
			t.Errorf("%v: Load returned %v, %v", spec, k, err)
		}
		if err := p.Destroy(t.Context(), blob); err != nil {
			t.Errorf("%v: Destroy returned %v", spec, err)
		}
		if n := count(t, p, blob); n != 0 {
			t.Errorf("%v: %d objects are left", spec, n)
		}
	}
}

// TestAPublicObjectOfTheSameID, which needs no PIN, is in nobody's way, and ends with the key.
func TestAPublicObjectOfTheSameID(t *testing.T) {
	t.Parallel()
	p := open(t, newToken(t))
	_, blob := generate(t, p, hsm.PRFSHA256)
	err := p.Raw(func(c *raw.Ctx, s raw.SessionHandle) error {
		_, err := c.CreateObject(s, []*raw.Attribute{
			raw.NewAttribute(raw.CKA_CLASS, raw.CKO_SECRET_KEY), raw.NewAttribute(raw.CKA_KEY_TYPE, raw.CKK_GENERIC_SECRET),
			raw.NewAttribute(raw.CKA_TOKEN, true), raw.NewAttribute(raw.CKA_PRIVATE, false), raw.NewAttribute(raw.CKA_SIGN, true),
			raw.NewAttribute(raw.CKA_VALUE, make([]byte, 32)), raw.NewAttribute(raw.CKA_ID, pkcs11.IDOf(blob)),
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Load(t.Context(), blob); err != nil || count(t, p, blob) != 2 {
		t.Errorf("Load returned %v beside %d objects", err, count(t, p, blob)-1)
	}
	if err := p.Destroy(t.Context(), blob); err != nil || count(t, p, blob) != 0 {
		t.Errorf("Destroy returned %v and left %d objects", err, count(t, p, blob))
	}
}

// TestAPlantedKey: a key with the right id and attributes in the place of the one that was made is not that one.
func TestAPlantedKey(t *testing.T) {
	t.Parallel()
	p := open(t, newToken(t))
	for _, spec := range []hsm.Spec{hsm.PRFSHA256, hsm.SignP256} {
		_, blob := generate(t, p, spec)
		if err := errors.Join(p.Destroy(t.Context(), blob), p.Plant(blob)); err != nil {
			t.Fatal(err)
		}
		if k, err := p.Load(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) || k != nil {
			t.Errorf("%v: Load returned %v, %v", spec, k, err)
		}
	}
}

// TestABlobOfAnotherToken names nothing here, also where something has its id.
func TestABlobOfAnotherToken(t *testing.T) {
	t.Parallel()
	p, other := open(t, newToken(t)), open(t, newToken(t))
	_, blob := generate(t, p, hsm.PRFSHA256)
	if err := other.Plant(blob); err != nil {
		t.Fatal(err)
	}
	if k, err := other.Load(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) || k != nil {
		t.Errorf("Load returned %v, %v", k, err)
	}
	if err := other.Destroy(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("Destroy returned %v", err)
	}
	if n := count(t, other, blob); n != 1 {
		t.Errorf("%d objects are left of 1", n)
	}
}

// TestAnotherProgramDestroys: what another program destroys is gone for the handles that are open.
func TestAnotherProgramDestroys(t *testing.T) {
	t.Parallel()
	c := newToken(t)
	p := open(t, c)
	k, blob := generate(t, p, hsm.PRFSHA256)
	id := fmt.Sprintf("%x", pkcs11.IDOf(blob))
	out, err := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", softHSM, "--token-label", c.Label, "--login", "--pin", pin,
		"--delete-object", "--type", "secrkey", "--id", id).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := k.(hsm.PRF).PRF(t.Context(), nil, []byte("x")); !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("PRF returned %v", err)
	}
	if err := p.Destroy(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("Destroy returned %v", err)
	}
}

func BenchmarkPRF(b *testing.B) {
	p, blob := benchToken(b, hsm.PRFSHA256)
	k, err := p.Load(b.Context(), blob)
	if err != nil {
		b.Fatal(err)
	}
	var dst [32]byte
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.(hsm.PRF).PRF(b.Context(), dst[:0], dst[:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	p, blob := benchToken(b, hsm.SignP256)
	k, err := p.Load(b.Context(), blob)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.(hsm.Signer).SignDigest(b.Context(), make([]byte, 32)); err != nil {
			b.Fatal(err)
		}
	}
}

func benchToken(b *testing.B, spec hsm.Spec) (hsm.Provider, []byte) {
	b.Helper()
	label := fmt.Sprintf("token-%d", labels.Add(1))
	path := filepath.Join(b.TempDir(), "pin")
	if err := errors.Join(os.WriteFile(path, []byte(pin), 0o600), pkcs11.InitToken(softHSM, label, pin)); err != nil {
		b.Fatal(err)
	}
	p, err := pkcs11.Open(b.Context(), pkcs11.Config{Module: softHSM, Label: label, PIN: secret.Source{File: path}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	_, blob, err := p.Generate(b.Context(), spec)
	if err != nil {
		b.Fatal(err)
	}
	return p, blob
}
