package tpm2_test

import (
	"errors"
	"testing"

	tpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

// tries returns how many wrong authorizations the TPM has counted.
func tries(t *testing.T, v *swtpm.TPM) (n uint32) {
	t.Helper()
	raw(t, v, func(r transport.TPM) {
		reply := do(t, r, tpm.GetCapability{Capability: tpm.TPMCapTPMProperties, Property: uint32(tpm.TPMPTLockoutCounter), PropertyCount: 1}.Execute)
		list, err := reply.CapabilityData.Data.TPMProperties()
		if err != nil {
			t.Fatal(err)
		}
		n = list.TPMProperty[0].Value
	})
	return n
}

// TestPIN: a wrong PIN costs one try however often the key is used, never the last one, and locks nobody out who has no PIN.
func TestPIN(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t) // locks itself after 3 wrong tries
	p := open(t, tpm2.Config{Path: v.Path(), PIN: secret("right\x00\x01")})
	_, blob := generate(t, p, hsm.PRFSHA256)
	_, signer := generate(t, p, hsm.SignP256)
	_ = p.Close()
	p = open(t, tpm2.Config{Path: v.Path()})
	free, freeBlob := generate(t, p, hsm.PRFSHA256)
	prf(t, free, "input")
	use := func(cfg tpm2.Config, blob []byte, times int, want error) {
		t.Helper()
		cfg.Path = v.Path()
		p := open(t, cfg)
		defer p.Close()
		k, err := p.Load(t.Context(), blob)
		if err != nil {
			t.Fatal(err)
		}
		for range times {
			switch k := k.(type) {
			case hsm.PRF:
				_, err = k.PRF(t.Context(), nil, []byte("input"))
			case hsm.Signer:
				_, err = k.SignDigest(t.Context(), make([]byte, 32))
			}
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		if _, _, err := p.Generate(t.Context(), hsm.PRFSHA256); want == tpm2.ErrPIN && cfg.PIN != nil && !errors.Is(err, tpm2.ErrPIN) {
			t.Errorf("Generate under a PIN that was refused: %v", err)
		}
	}
	_ = p.Close()
	use(tpm2.Config{PIN: secret("right\x00\x01")}, blob, 2, nil)
	use(tpm2.Config{PIN: secret("right\x00\x01")}, signer, 2, nil)
	use(tpm2.Config{PIN: secret("right\x00\x01")}, freeBlob, 1, nil)
	use(tpm2.Config{}, blob, 2, tpm2.ErrPIN)
	if n := tries(t, v); n != 0 {
		t.Errorf("%d tries burnt without a wrong PIN", n)
	}
	use(tpm2.Config{PIN: secret("right\x00\x02")}, blob, 3, tpm2.ErrPIN)
	if n := tries(t, v); n != 1 {
		t.Errorf("%d tries burnt by one wrong PIN", n)
	}
	use(tpm2.Config{PIN: secret("right")}, signer, 3, tpm2.ErrPIN)
	for _, pin := range []string{"wrong", "right\x00\x01"} {
		use(tpm2.Config{PIN: secret(pin)}, blob, 2, tpm2.ErrLockout)
	}
	if n := tries(t, v); n != 2 {
		t.Errorf("%d tries burnt", n)
	}
	use(tpm2.Config{}, freeBlob, 1, nil)
}

func TestNoPIN(t *testing.T) {
	t.Parallel()
	path := swtpm.Start(t).Path()
	if _, err := tpm2.Open(t.Context(), tpm2.Config{Path: path, PIN: secret("")}); !errors.Is(err, tpm2.ErrPIN) {
		t.Errorf("an empty PIN: %v", err)
	}
	broken := errors.New("no file")
	if _, err := tpm2.Open(t.Context(), tpm2.Config{Path: path, PIN: func() ([]byte, error) { return nil, broken }}); !errors.Is(err, broken) {
		t.Errorf("a PIN that cannot be read: %v", err)
	}
}
