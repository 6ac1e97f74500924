package tpm2_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	tpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(t *testing.T) hsm.Opener {
		path := swtpm.Start(t).Path()
		return func(ctx context.Context) (hsm.Provider, error) { return tpm2.Open(ctx, tpm2.Config{Path: path}) }
	})
}

func TestConformanceWithPIN(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(t *testing.T) hsm.Opener {
		path := swtpm.Start(t).Path()
		return func(ctx context.Context) (hsm.Provider, error) {
			return tpm2.Open(ctx, tpm2.Config{Path: path, PIN: secret("1234")})
		}
	})
}

func secret(s string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(s), nil } }

// TestEnforcedFIPS: GODEBUG=fips140=only ends a program at the first AES-CFB.
func TestEnforcedFIPS(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestConformanceWithPIN$/^(PRF|Sign|Random|Destroy)$")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
	if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("no tests to run")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNothingInClear: what is secret does not cross the bus, and what is not does, so the recorder works.
func TestNothingInClear(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	bus := v.Bus("unix")
	owner, code := []byte("the owner's word"), []byte("0815\x00 is the PIN")
	raw(t, v, func(r transport.TPM) { setOwner(t, r, owner) })
	p := open(t, tpm2.Config{Path: bus.Path(), Owner: secret(string(owner)), PIN: secret(string(code))})
	k, blob := generate(t, p, hsm.PRFSHA256)
	signer, signerBlob := generate(t, p, hsm.SignP256)
	input := bytes.Repeat([]byte("a secret input."), 8)
	output := prf(t, k, string(input))
	random := make([]byte, 64)
	if err := p.Random(t.Context(), random); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.(hsm.Signer).SignDigest(t.Context(), random[:32]); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{blob, signerBlob} {
		if err := p.Destroy(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	mac := hmac.New(sha256.New, code)
	mac.Write([]byte("keyrack tpm2 pin"))
	auth := hex.AppendEncode(nil, mac.Sum(nil)[:16])
	traffic := bus.Traffic()
	for name, b := range map[string][]byte{"PIN": code, "PIN's authorization value": auth, "owner's authorization value": owner,
		"input": input[:16], "output": output[:16], "random": random[:16], "more random": random[40:56]} {
		if bytes.Contains(traffic, b) {
			t.Errorf("the %s crosses the bus in clear", name)
		}
	}
	if !bytes.Contains(traffic, blob[71:103]) || len(traffic) < 4096 { // unique, FORMAT.md
		t.Error("the recorder does not record")
	}
}

// setOwner gives the owner hierarchy an authorization value.
func setOwner(t *testing.T, r transport.TPM, auth []byte) {
	t.Helper()
	do(t, r, tpm.HierarchyChangeAuth{AuthHandle: tpm.TPMRHOwner, NewAuth: tpm.TPM2BAuth{Buffer: auth}}.Execute)
}

func TestOwner(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	_ = open(t, tpm2.Config{Path: v.Path()}).Close() // makes the SRK
	raw(t, v, func(r transport.TPM) { setOwner(t, r, []byte("owner")) })
	for _, wrong := range []func() ([]byte, error){nil, secret("other")} {
		p := open(t, tpm2.Config{Path: v.Path(), Owner: wrong})
		if _, _, err := p.Generate(t.Context(), hsm.PRFSHA256); !errors.Is(err, tpm2.ErrOwner) {
			t.Errorf("Generate with the wrong owner authorization: %v", err)
		}
		_ = p.Close()
	}
	for _, bad := range []string{"a\x00b", strings.Repeat("x", 33)} {
		if _, err := tpm2.Open(t.Context(), tpm2.Config{Path: v.Path(), Owner: secret(bad)}); !errors.Is(err, tpm2.ErrOwner) {
			t.Errorf("Open with owner authorization %q: %v", bad, err)
		}
	}
	p := open(t, tpm2.Config{Path: v.Path(), Owner: secret("owner")})
	_, blob := generate(t, p, hsm.PRFSHA256)
	_ = p.Close()
	p = open(t, tpm2.Config{Path: v.Path()})
	k, err := p.Load(t.Context(), blob)
	if err != nil {
		t.Fatalf("using a key needs no owner: %v", err)
	}
	prf(t, k, "input")
	if err := p.Destroy(t.Context(), blob); !errors.Is(err, tpm2.ErrOwner) {
		t.Errorf("Destroy without the owner authorization: %v", err)
	}
	prf(t, k, "input")
}

// TestRestart: the TPM loses its power between any two operations.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, operation := range s.operations() {
		for range 2 {
			s.tpm.Kill()
			s.tpm.Restart()
			if err := operation(t.Context()); err != nil {
				t.Errorf("%s after a restart: %v", name, err)
			}
		}
	}
	_, blob := generate(t, s.token, hsm.PRFSHA256)
	s.tpm.Kill()
	s.tpm.Restart()
	if err := s.token.Destroy(t.Context(), blob); err != nil {
		t.Errorf("Destroy after a restart: %v", err)
	}
	s.intact(t, "restarts", nil)
}

// TestForgotten: as after a suspension, the TPM forgets what was loaded while the connection stands.
func TestForgotten(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, name := range []string{"PRF", "Sign", "Load", "PRF"} {
		done := false
		s.bus.Set(func(_ int, command []byte, execute func([]byte) []byte) []byte {
			if !done {
				done = true
				for h := byte(0); h < 3; h++ {
					for _, kind := range []byte{0x80, 0x02, 0x03} {
						execute([]byte{0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65, kind, 0, 0, h})
					}
				}
			}
			return execute(command)
		})
		if err := s.operations()[name](t.Context()); err != nil || !done {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCleared: whoever clears the TPM, or puts another in its place, is told so.
func TestCleared(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	p := open(t, tpm2.Config{Path: v.Path()})
	k, blob := generate(t, p, hsm.PRFSHA256)
	v.Clear()
	if _, err := k.(hsm.PRF).PRF(t.Context(), nil, []byte("x")); !errors.Is(err, tpm2.ErrReplaced) {
		t.Errorf("PRF on another TPM: %v", err)
	}
	_ = p.Close()
	raw(t, v, func(r transport.TPM) { // it was left as it was
		if _, err := (tpm.ReadPublic{ObjectHandle: tpm.TPMHandle(0x81000001)}).Execute(r); !errors.Is(err, tpm.TPMRCHandle) {
			t.Errorf("the other TPM's first storage root key: %v", err)
		}
	})
	p = open(t, tpm2.Config{Path: v.Path()})
	for name, err := range map[string]error{"Load": second(p.Load(t.Context(), blob)), "Destroy": p.Destroy(t.Context(), blob)} {
		if !errors.Is(err, hsm.ErrBlob) || !strings.Contains(err.Error(), "another TPM, or this one was cleared") {
			t.Errorf("%s on another TPM: %v", name, err)
		}
	}
}

func second(_ hsm.Key, err error) error { return err }

// TestLeftovers: what a program that died left loaded in a TPM without resource manager does not keep us out.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	raw(t, v, func(r transport.TPM) {
		for range 3 {
			do(t, r, tpm.CreatePrimary{PrimaryHandle: tpm.TPMRHOwner, InPublic: tpm.New2B(tpm.ECCSRKTemplate)}.Execute)
			if _, _, err := tpm.HMACSession(r, tpm.TPMAlgSHA256, 16); err != nil {
				t.Fatal(err)
			}
		}
	})
	p := open(t, tpm2.Config{Path: v.Path()})
	k, blob := generate(t, p, hsm.PRFSHA256)
	prf(t, k, "input")
	if err := p.Destroy(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	_, _ = generate(t, p, hsm.SignP256)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	raw(t, v, func(r transport.TPM) {
		if left := slices.Concat(handles(t, r, 0x80000000), handles(t, r, 0x02000000)); len(left) != 0 {
			t.Errorf("Close leaves %x loaded", left)
		}
	})
}

// TestForeignRoot: where an RSA key has the first place, the SRK takes the second.
func TestForeignRoot(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	occupy := func(h tpm.TPMHandle) {
		raw(t, v, func(r transport.TPM) {
			k := do(t, r, tpm.CreatePrimary{PrimaryHandle: tpm.TPMRHOwner, InPublic: tpm.New2B(tpm.RSASRKTemplate)}.Execute)
			do(t, r, tpm.EvictControl{Auth: tpm.TPMRHOwner, ObjectHandle: tpm.NamedHandle{Handle: k.ObjectHandle, Name: k.Name}, PersistentHandle: h}.Execute)
			do(t, r, tpm.FlushContext{FlushHandle: k.ObjectHandle}.Execute)
		})
	}
	occupy(0x81000001)
	p := open(t, tpm2.Config{Path: v.Path()})
	k, _ := generate(t, p, hsm.PRFSHA256)
	prf(t, k, "input")
	_ = p.Close()
	raw(t, v, func(r transport.TPM) {
		if got := handles(t, r, 0x81000000); !slices.Equal(got, []tpm.TPMHandle{0x81000001, 0x81000002}) {
			t.Errorf("persistent handles %x", got)
		}
	})
	other := swtpm.Start(t)
	v = other
	occupy(0x81000001)
	occupy(0x81000002)
	if _, err := tpm2.Open(t.Context(), tpm2.Config{Path: v.Path()}); err == nil || !strings.Contains(err.Error(), "0x81000002") {
		t.Errorf("without a place for the SRK: %v", err)
	}
}

// TestNotATPM: what stands at the path is no TPM.
func TestNotATPM(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	for path, want := range map[string]error{
		file:                   tpm2.ErrUnreachable,
		file + ".none":         fs.ErrNotExist,
		"/dev/null":            tpm2.ErrGarbage,
		"/dev/zero":            tpm2.ErrGarbage,
		"/dev/full":            tpm2.ErrUnreachable,
		"tcp:" + closed:        tpm2.ErrUnreachable,
		"tcp:no port":          tpm2.ErrUnreachable,
		filepath.Dir(file):     tpm2.ErrUnreachable,
		strings.Repeat("x", 9): tpm2.ErrUnreachable,
	} {
		if _, err := tpm2.Open(t.Context(), tpm2.Config{Path: path}); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	p := open(t, tpm2.Config{Path: "tcp:" + swtpm.Start(t).Bus("tcp").Path()})
	k, _ := generate(t, p, hsm.PRFSHA256)
	prf(t, k, "input")
}

// TestPutOff: a TPM that asks to be asked again is.
func TestPutOff(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, operation := range s.operations() {
		s.bus.Set(func(n int, command []byte, execute func([]byte) []byte) []byte {
			if n%2 == 1 {
				return code([]tpm.TPMRC{tpm.TPMRCRetry, tpm.TPMRCTesting, tpm.TPMRCYielded, tpm.TPMRCNVRate}[n/2%4])
			}
			return execute(command)
		})
		if err := operation(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.bus.Set(nil)
	s.token.SetTimeout(short)
	s.bus.Set(func(int, []byte, func([]byte) []byte) []byte { return code(tpm.TPMRCRetry) })
	if _, err := s.token.Load(t.Context(), s.rootBlob); !errors.Is(err, tpm.TPMRCRetry) && !errors.Is(err, tpm2.ErrSilent) {
		t.Errorf("a TPM that puts off for ever: %v", err)
	}
}

// TestGivingUp: a caller that no longer waits gets its answer while the TPM is silent, and who waits for his turn too.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.token.SetTimeout(long)
	ctx, cancel := context.WithCancel(t.Context())
	s.bus.Set(func(int, []byte, func([]byte) []byte) []byte {
		cancel()
		return nil
	})
	second := make(chan error)
	go func() {
		<-ctx.Done()
		second <- s.token.Random(ctx, make([]byte, 8))
	}()
	if _, err := s.token.Load(ctx, s.rootBlob); !errors.Is(err, context.Canceled) {
		t.Errorf("Load: %v", err)
	}
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("Random: %v", err)
	}
	s.bus.Set(nil)
	s.intact(t, "giving up", nil)
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	d := open(t, tpm2.Config{Path: swtpm.Start(t).Path()}).Describe()
	if d.Kind != "tpm2" || !strings.Contains(d.Model, "IBM") || !strings.Contains(d.Model, "firmware") || len(d.Serial) != 32 || !d.Development {
		t.Errorf("%+v", d)
	}
}
