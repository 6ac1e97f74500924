// Package secp256k1 is ECDSA on the curve secp256k1 (SEC 2, section 2.4.1; FIPS 186-5, section 6), which the standard
// library does not have. Read [PrivateKey], [PublicKey] and der.go.
//
// The arithmetic is decred's, whose multiplications take a time that depends on the number. Every secret one is split at
// random before it gets there, so that the time says nothing of it. The package makes no other signatures and no shared
// secrets, and it reads neither PEM nor private keys: internal/pkcs8 does.
package secp256k1

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	curve "github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// Size is the length of a private scalar and of a digest, in bytes.
const Size = 32

var (
	// ErrScalar is returned for what is no private scalar: it is not 32 bytes, 0, or not below the order.
	ErrScalar = errors.New("secp256k1: not a private scalar")

	// ErrDigest is returned for a digest that is not 32 bytes.
	ErrDigest = errors.New("secp256k1: a digest has 32 bytes")
)

// PrivateKey is a private key. It is immutable, and a crypto.Signer.
type PrivateKey struct {
	scalar curve.ModNScalar
	public *PublicKey
}

// NewPrivateKey returns the key of a private scalar, 32 bytes, big-endian (SEC 1, section 2.3.6), of which it keeps a
// copy. It returns ErrScalar. Call it in securemem.Do.
func NewPrivateKey(scalar []byte) (*PrivateKey, error) {
	k := new(PrivateKey)
	if len(scalar) != Size || k.scalar.SetByteSlice(scalar) || k.scalar.IsZero() {
		return nil, ErrScalar
	}
	point := multiplied(&k.scalar)
	k.public = &PublicKey{curve.NewPublicKey(&point.X, &point.Y)}
	return k, nil
}

// Draw fills scalar, 32 bytes, with a new private scalar (FIPS 186-5, appendix A.2.2).
func Draw(scalar []byte) error {
	for {
		rand.Read(scalar)
		var n curve.ModNScalar
		if len(scalar) != Size {
			return ErrScalar
		}
		overflow, zero := n.SetByteSlice(scalar), n.IsZero()
		n.Zero()
		if !overflow && !zero {
			return nil
		}
	}
}

// Public returns a *PublicKey.
func (k *PrivateKey) Public() crypto.PublicKey { return k.public }

// AppendScalar appends the private scalar, 32 bytes, to dst.
func (k *PrivateKey) AppendScalar(dst []byte) []byte {
	b := k.scalar.Bytes()
	defer clear(b[:])
	return append(dst, b[:]...)
}

// Sign returns a signature of a SHA-256 digest, 32 bytes: the DER of r and s (RFC 3279, section 2.2.3), at most 72
// bytes. s is the smaller one of the two that would do. The nonce is that of RFC 6979 with 32 random bytes besides
// (section 3.6), as crypto/ecdsa has it: neither a bad generator nor a fault repeats one. random and opts are ignored.
// Call it in securemem.Do: what makes the nonce leaves copies of what it hashes, the scalar among them.
func (k *PrivateKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	if len(digest) != Size {
		return nil, ErrDigest
	}
	var extra [32]byte
	rand.Read(extra[:])
	secret := k.scalar.Bytes()
	defer clear(secret[:])
	for iteration := uint32(0); ; iteration++ {
		nonce := curve.NonceRFC6979(secret[:], digest, extra[:], nil, iteration)
		if s := k.sign(nonce, digest); s != nil {
			return s.Serialize(), nil
		}
	}
}

// sign is FIPS 186-5, section 6.4.1, from step 3 on. It uses up nonce, and returns nil where that is none of use, which
// nobody will ever see.
func (k *PrivateKey) sign(nonce *curve.ModNScalar, digest []byte) *ecdsa.Signature {
	point := multiplied(nonce)
	var r, e curve.ModNScalar
	x := *point.X.Bytes()
	r.SetByteSlice(x[:]) // modulo the order
	e.SetByteSlice(digest)
	blind := drawn()
	s := new(curve.ModNScalar).Mul2(&k.scalar, &r)
	s.Add(&e).Mul(blind) // (e + r d) b ÷ (k b): the inversion's time says nothing of k
	s.Mul(nonce.Mul(blind).InverseNonConst())
	nonce.Zero()
	blind.Zero()
	if r.IsZero() || s.IsZero() {
		return nil
	}
	if s.IsOverHalfOrder() {
		s.Negate()
	}
	return ecdsa.NewSignature(&r, s)
}

// multiplied returns k G, affine: as (k + b) G - b G for a random b.
func multiplied(k *curve.ModNScalar) curve.JacobianPoint {
	blind := drawn()
	var split curve.ModNScalar
	split.Add2(k, blind)
	var left, right, sum curve.JacobianPoint
	curve.ScalarBaseMultNonConst(&split, &left)
	curve.ScalarBaseMultNonConst(blind.Negate(), &right)
	curve.AddNonConst(&left, &right, &sum)
	split.Zero()
	blind.Zero()
	sum.ToAffine()
	return sum
}

// drawn returns a random number, 1 to the order less 1.
func drawn() *curve.ModNScalar {
	var b [Size]byte
	n := new(curve.ModNScalar)
	for overflow := true; overflow || n.IsZero(); {
		rand.Read(b[:])
		overflow = n.SetByteSlice(b[:])
	}
	clear(b[:])
	return n
}

// PublicKey is a public key: a point on the curve, not the one at infinity. It is immutable.
type PublicKey struct{ point *curve.PublicKey }

// NewPublicKey reads an uncompressed point, 04 ‖ x ‖ y (SEC 1, section 2.3.4), that is on the curve.
func NewPublicKey(point []byte) (*PublicKey, error) {
	if len(point) != 1+2*Size || point[0] != 4 {
		return nil, errors.New("secp256k1: not an uncompressed point")
	}
	k, err := curve.ParsePubKey(point)
	if err != nil {
		return nil, fmt.Errorf("secp256k1: %w", err)
	}
	return &PublicKey{k}, nil
}

// Bytes returns the point, uncompressed: 65 bytes.
func (k *PublicKey) Bytes() []byte { return k.point.SerializeUncompressed() }

// Equal reports whether x is the same key.
func (k *PublicKey) Equal(x crypto.PublicKey) bool {
	other, ok := x.(*PublicKey)
	return ok && k.point.IsEqual(other.point)
}

// Valid reports whether a signature is one of a SHA-256 digest, 32 bytes. It must be DER in its one encoding; of the two
// s that would do, either is taken, as OpenSSL does.
func (k *PublicKey) Valid(digest, signature []byte) bool {
	s, err := ecdsa.ParseDERSignature(signature)
	return err == nil && len(digest) == Size && s.Verify(digest, k.point)
}
