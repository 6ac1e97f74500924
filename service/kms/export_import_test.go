package kms

import (
	"testing"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
)

// SealedImportToken returns a token of some key, and what opens those of it.
func SealedImportToken(tb testing.TB) (token []byte, open func([]byte) error) {
	tb.Helper()
	primes, err := securemem.From(make([]byte, 256))
	if err != nil {
		tb.Fatal(err)
	}
	key, k, row := make([]byte, 32), &key{}, newEpoch()
	t := &importTerms{algorithm: kmsapi.WrapOAEPSHA256, spec: kmsapi.WrappingRSA2048, until: 1, primes: primes, epoch: row.Epoch}
	if token, err = t.token(key, k); err != nil {
		tb.Fatal(err)
	}
	return token, func(b []byte) error {
		t, err := parseImportToken(key, k, row.Epoch, b)
		if err == nil {
			t.primes.Free()
		}
		return err
	}
}
