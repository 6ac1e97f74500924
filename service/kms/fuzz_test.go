package kms_test

import (
	"testing"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/service/kms"
)

// FuzzMaterial reads a row of material as that of a key: it is used only if its tag
// and its length are the spec's, and what is then expanded signs what it verifies, but for
// RSA, whose signatures are checked before they leave.
func FuzzMaterial(f *testing.F) {
	for spec := kmsapi.KeySpecSymmetricDefault; spec <= kmsapi.KeySpecMLKEM1024; spec++ {
		if kms.Has(spec) && (spec <= kmsapi.KeySpecRSA2048 || spec > kmsapi.KeySpecRSA4096) { // longer primes are the same code, and slow to draw
			f.Add(byte(spec), kms.Draw(f, spec))
		}
	}
	f.Add(byte(kmsapi.KeySpecRSA3072), append([]byte{7}, make([]byte, 384)...))
	f.Add(byte(kmsapi.KeySpecECCNISTP521), append([]byte{11, 0xff}, make([]byte, 65)...))
	f.Fuzz(func(t *testing.T, spec byte, row []byte) {
		s := kmsapi.KeySpec(spec)
		if !kms.Has(s) {
			return
		}
		if err := kms.CheckMaterial(s, row); err != nil {
			return
		}
		if row[0] != spec {
			t.Fatalf("a row with the tag %d is taken for %s", row[0], s)
		}
		if err := kms.Expand(s, row[1:]); err != nil {
			return
		}
		rsa := s >= kmsapi.KeySpecRSA2048 && s <= kmsapi.KeySpecRSA4096 // whether p and q are primes shows in a signature first
		if err := kms.TrySecret(s, row[1:]); err != nil && !rsa {
			t.Errorf("%s: a secret that is taken makes what does not verify: %v", s, err)
		}
	})
}
