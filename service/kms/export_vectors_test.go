package kms

import (
	"crypto"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/keystore"
)

// Plant gives a key another secret instead of its own.
func Plant(tb testing.TB, s *Service, id api.KeyID, secret []byte) {
	tb.Helper()
	if err := editMaterials(tb, s, id, func(tx keystore.Tx, r *keyRow) error {
		if err := tx.Delete(materialName(id, r.Current)); err != nil {
			return err
		}
		material := materialID(id, secret)
		r.Current = material[:]
		return tx.Put(materialName(id, r.Current), append([]byte{byte(r.Spec)}, secret...))
	}); err != nil {
		tb.Fatal(err)
	}
}

// Valid says what Verify finds of a signature under a public key whose private half nobody has.
func Valid(public crypto.PublicKey, a kmsapi.SigningAlgorithm, message, signature []byte) bool {
	scheme := schemeOf(a, kmsapi.MessageRaw)
	return scheme.valid(public, scheme.input(nil, kmsapi.MessageRaw, message), signature)
}
