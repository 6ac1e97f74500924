package tpm2_test

import (
	"errors"
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

// TestInspect asks a new chip what it is, which leaves it as it is, and one in use with a wrong PIN tried, which spends no further try.
func TestInspect(t *testing.T) {
	t.Parallel()
	cfg := tpm2.Config{Path: swtpm.Start(t).Path()}
	for range 2 {
		r, err := tpm2.Inspect(t.Context(), cfg)
		if err != nil || r.Kind != "tpm2" || r.Serial != "" || r.WrongTries != 0 || r.MaxTries == 0 || r.GivenBack == 0 || r.Locked || len(r.Specs) != 2 {
			t.Fatalf("Inspect of a new chip returned %+v, %v", r, err)
		}
	}
	with := func(pin string) tpm2.Config {
		c := cfg
		c.PIN = func() ([]byte, error) { return []byte(pin), nil }
		return c
	}
	token, err := tpm2.Open(t.Context(), with("0815"))
	if err != nil {
		t.Fatal(err)
	}
	serial := token.Describe().Serial
	_, blob, err := token.Generate(t.Context(), hsm.PRFSHA256)
	if err = errors.Join(err, token.Close()); err != nil {
		t.Fatal(err)
	}
	if token, err = tpm2.Open(t.Context(), with("4711")); err != nil {
		t.Fatal(err)
	}
	key, err := token.Load(t.Context(), blob)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.(hsm.PRF).PRF(t.Context(), nil, []byte("x")); !errors.Is(err, tpm2.ErrPIN) {
		t.Errorf("a wrong PIN: %v", err)
	}
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, err := tpm2.Inspect(t.Context(), cfg)
		if err != nil || r.Serial != serial || r.WrongTries != 1 {
			t.Errorf("Inspect after one wrong PIN returned %+v, %v; want serial %s", r, err, serial)
		}
	}
}
