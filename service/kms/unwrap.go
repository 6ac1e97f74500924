package kms

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for clients of AWS that know no other: OAEP asks no collision resistance of it
	"errors"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/kwp"
	"github.com/keyrack/keyrack/internal/pkcs8"
	"github.com/keyrack/keyrack/internal/securemem"
)

// wrapping is what a WrappingAlgorithm means.
type wrapping struct {
	hash crypto.Hash // of OAEP and its MGF1 (RFC 8017, section 7.1); 0 = it is not offered
	kwp  bool        // OAEP encrypts an AES-256 key, and the material stands behind it under that (RFC 5649)
}

// wrappings is the table of what material may be encrypted with (AWS KMS developer guide,
// "Select a wrapping algorithm"). PKCS #1 version 1.5 AWS takes no more, SM2 only in China.
var wrappings = [...]wrapping{
	kmsapi.WrapPKCS1V15:         {},
	kmsapi.WrapOAEPSHA1:         {crypto.SHA1, false},
	kmsapi.WrapOAEPSHA256:       {crypto.SHA256, false},
	kmsapi.WrapAESKeyWrapSHA1:   {crypto.SHA1, true},
	kmsapi.WrapAESKeyWrapSHA256: {crypto.SHA256, true},
	kmsapi.WrapSM2PKE:           {},
}

// wrappingSpecs says of which KeySpec a wrapping key is; 0 = it is not offered.
var wrappingSpecs = [...]kmsapi.KeySpec{
	kmsapi.WrappingRSA2048: kmsapi.KeySpecRSA2048,
	kmsapi.WrappingRSA3072: kmsapi.KeySpecRSA3072,
	kmsapi.WrappingRSA4096: kmsapi.KeySpecRSA4096,
	kmsapi.WrappingSM2:     0,
}

const (
	wrappedKey = 32  // bytes of the AES key that OAEP encrypts
	fileSize   = 256 // bytes that a private key's file might have
)

// unwrapped is what encrypted material was decrypted to, or random bytes if ok is false.
type unwrapped struct {
	bytes []byte // on the heap, to be wiped
	ok    bool
}

// orRandom draws random bytes, and returns them where b is not ok.
func orRandom(b []byte, ok bool, size int) unwrapped {
	random := make([]byte, size)
	rand.Read(random)
	if ok {
		return unwrapped{b, true}
	}
	return unwrapped{random, false}
}

// unwrap decrypts material of about plain bytes. There is one path, whatever is wrong: where OAEP
// fails it goes on with a random AES key, and where anything fails with random material, so that
// no try can be told from another before the end (Manger, "A Chosen Ciphertext Attack on RSA
// Optimal Asymmetric Encryption Padding", 2001). Run it inside securemem.Do.
func (w wrapping) unwrap(private *rsa.PrivateKey, blob []byte, plain int) unwrapped {
	if !w.kwp {
		material, err := rsa.DecryptOAEP(w.hash.New(), nil, private, blob, nil)
		return orRandom(material, err == nil, plain)
	}
	size := min(len(blob), private.Size())
	opened, err := rsa.DecryptOAEP(w.hash.New(), nil, private, blob[:size], nil)
	kek := orRandom(opened, err == nil && len(opened) == wrappedKey, wrappedKey)
	defer securemem.Wipe(kek.bytes)
	material, err := kwp.Unwrap(make([]byte, len(blob)-size), kek.bytes, blob[size:])
	u := orRandom(material, err == nil, plain)
	u.ok = u.ok && kek.ok
	return u
}

// errImportMaterial is everything that can be wrong with encrypted material before it is
// material: the decryption, its length, its form.
var errImportMaterial = &api.Error{
	Kind:    api.KindInvalidCiphertext,
	Message: "the encrypted key material does not decrypt to key material: encrypt it for the public key that came with this import token, by the algorithm that was asked for; it is 32 bytes of a symmetric key, as many as its MAC of an HMAC key, PKCS#8 in DER of an asymmetric key",
}

// incorrectMaterial answers for what is key material, and not such as the key takes.
func incorrectMaterial(format string, args ...any) error {
	return api.Errorf(api.KindIncorrectKeyMaterial, format, args...)
}

// secret returns the secret that encrypted material holds for a key of a spec, checked, in
// locked memory that is the caller's to free. It returns errImportMaterial,
// IncorrectKeyMaterial or securemem's errors.
func (t *importTerms) secret(spec kmsapi.KeySpec, blob []byte) (*securemem.Buffer, error) {
	row := specOf(spec)
	u, err := t.open(row, blob)
	if err != nil {
		return nil, err
	}
	defer securemem.Wipe(u.bytes)
	if row.expand == nil || spec <= kmsapi.KeySpecHMAC512 {
		if len(u.bytes) != row.secret || !u.ok {
			return nil, errImportMaterial
		}
		return securemem.From(u.bytes)
	}
	private, err := pkcs8.Parse(u.bytes)
	switch {
	case errors.Is(err, pkcs8.ErrForm), !u.ok:
		return nil, errImportMaterial
	case err != nil:
		return nil, incorrectMaterial("the private key cannot be imported: %v", err)
	}
	defer securemem.Wipe(private.Secret)
	if private.Spec != spec.String() {
		return nil, incorrectMaterial("the private key is one of KeySpec %s, and the key is of %s", private.Spec, spec)
	}
	return securemem.From(private.Secret)
}

// open decrypts.
func (t *importTerms) open(row *spec, blob []byte) (u unwrapped, err error) {
	plain := row.secret
	if row.expand != nil {
		plain = fileSize
	}
	securemem.Do(func() {
		var as any
		if as, err = rsaKey(t.primes.Bytes()); err != nil {
			return
		}
		u = wrappings[t.algorithm].unwrap(as.(*signer).private.(*rsa.PrivateKey), blob, plain)
	})
	if err != nil {
		return u, api.Internal(err)
	}
	return u, nil
}

// sound refuses a secret that is no key such as k: what computes with it says so, and tries it.
func (k *key) sound(secret *securemem.Buffer) (err error) {
	if specOf(k.row.Spec).expand == nil {
		return nil
	}
	securemem.Do(func() {
		var as any
		if as, err = k.expandSecret(secret.Bytes()); err != nil {
			return
		}
		if a, ok := as.(asymmetric); ok {
			err = a.prove(k.offers())
		}
	})
	if err != nil {
		return incorrectMaterial("the key material is not that of a key of KeySpec %s", k.row.Spec)
	}
	return nil
}
