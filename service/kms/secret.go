package kms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"hash"
	"math/big"

	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/secp256k1"
)

// Secrets of keys: how they are drawn, and what the standard library makes of them.
// FORMAT.md, "Material", has their bytes. All of this runs inside securemem.Do.

// random draws a secret of which any value will do.
func random(secret []byte) error {
	_, err := rand.Read(secret)
	return err
}

// hmacWith expands a secret to the HMAC of one hash function that is ready for a
// message: a template that is cloned.
func hmacWith(h func() hash.Hash) func([]byte) (any, error) {
	return func(secret []byte) (any, error) { return hmac.New(h, secret), nil }
}

// publicExponent is that of every RSA key (FIPS 186-5, section 5.4).
const publicExponent = 65537

// drawPrimes draws the primes of an RSA key, each half of the secret, big-endian, the
// greater one first, as internal/pkcs8 has them (FIPS 186-5, appendix A.1.3).
//
// With the same random bytes it takes 0 to 16 % more of the processor's time inside securemem.Do than outside, about half a second
// for RSA-4096 on one core of a server: nearly all of it is arithmetic on numbers that are there already. What differs by a
// factor from key to key is how many candidates it takes. So there is nothing to gain by making primes outside,
// where crypto/rsa would leave them and every candidate on the heap.
func drawPrimes(secret []byte) error {
	k, err := rsa.GenerateKey(rand.Reader, 4*len(secret)*2)
	if err != nil {
		return err
	}
	p, q := k.Primes[0], k.Primes[1]
	if p.Cmp(q) < 0 {
		p, q = q, p
	}
	p.FillBytes(secret[:len(secret)/2])
	q.FillBytes(secret[len(secret)/2:])
	return nil
}

// rsaKey computes an RSA key from its primes and checks what can be checked of them.
func rsaKey(secret []byte) (any, error) {
	p, q := new(big.Int).SetBytes(secret[:len(secret)/2]), new(big.Int).SetBytes(secret[len(secret)/2:])
	one, e := big.NewInt(1), big.NewInt(publicExponent)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	lcm := new(big.Int).Mul(p1, q1)
	lcm.Div(lcm, new(big.Int).GCD(nil, nil, p1, q1))
	d := new(big.Int).ModInverse(e, lcm) // the least one, as FIPS 186-5 wants it
	if d == nil {
		return nil, fmt.Errorf("the primes fit no exponent %d", publicExponent)
	}
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: publicExponent}, D: d, Primes: []*big.Int{p, q}}
	k.Precompute()
	if err := k.Validate(); err != nil {
		return nil, err
	}
	return newSigner(k)
}

// drawScalar draws the private scalar of a curve (FIPS 186-5, appendix A.2).
func drawScalar(curve elliptic.Curve) func([]byte) error {
	return func(secret []byte) error {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			return err
		}
		b, err := k.Bytes()
		copy(secret, b)
		clear(b)
		return err
	}
}

func ecdsaKey(curve elliptic.Curve) func([]byte) (any, error) {
	return func(secret []byte) (any, error) {
		k, err := ecdsa.ParseRawPrivateKey(curve, secret)
		if err != nil {
			return nil, err
		}
		return newSigner(k)
	}
}

func secp256k1Key(secret []byte) (any, error) {
	k, err := secp256k1.NewPrivateKey(secret)
	if err != nil {
		return nil, err
	}
	spki := k.Public().(*secp256k1.PublicKey).MarshalPKIX()
	public, err := secp256k1.ParsePKIX(spki)
	return &signer{k, public, spki}, err
}

// ed25519Key expands a seed (RFC 8032, section 5.1.5).
func ed25519Key(secret []byte) (any, error) { return newSigner(ed25519.NewKeyFromSeed(secret)) }

// signer is what the secret of a key that signs is expanded to.
type signer struct {
	private crypto.Signer
	public  crypto.PublicKey // in memory of its own: what flips in the private key's does not verify here
	spki    []byte           // DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)
}

func newSigner(private crypto.Signer) (any, error) {
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	return &signer{private, public, spki}, err
}

func (s *signer) publicKey() []byte { return s.spki }

// mldsaKey expands a seed of ML-DSA (FIPS 204, algorithm 6).
func mldsaKey(set pq.Set) func([]byte) (any, error) {
	return func(secret []byte) (any, error) {
		k, err := pq.NewSigningKey(set, secret)
		if err != nil {
			return nil, err
		}
		public := k.Public().(*pq.VerifyingKey)
		return &signer{k, public, pq.MarshalPKIX(set, public.Bytes())}, nil
	}
}
