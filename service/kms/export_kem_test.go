package kms

import (
	"testing"

	"github.com/keyrack/keyrack/api"
)

// SwapKEM is a failpoint: part 0 or 1 of the private key of a cached key of ML-KEM, or 2, its
// public key, is another one from then on, as one is in which a bit flipped.
func SwapKEM(tb testing.TB, s *Service, id api.KeyID, part int) {
	tb.Helper()
	k := s.keys.get(id)
	row := specOf(k.row.Spec)
	secret := make([]byte, row.secret)
	if err := row.draw(secret); err != nil {
		tb.Fatal(err)
	}
	as, err := row.expand(secret)
	if err != nil {
		tb.Fatal(err)
	}
	other, x := as.(*kem), k.current.expanded.Load()
	swapped := *x.as.(*kem)
	if part < 2 {
		swapped.private[part] = other.private[part]
	} else {
		swapped.public = other.public
	}
	k.current.expanded.Store(&expanded{&swapped, x.until})
}

// BoundLattices lets a service keep at most so many keys of ML-DSA and ML-KEM expanded.
func BoundLattices(s *Service, most int) { s.lattices.most = most }
