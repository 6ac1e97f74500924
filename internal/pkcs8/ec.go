package pkcs8

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/subtle"

	"github.com/keyrack/keyrack/internal/secp256k1"
)

// curve is one that EC keys are of.
type curve struct {
	oid  []byte
	spec string
	size int            // bytes of a scalar
	std  elliptic.Curve // nil for secp256k1, which the standard library has not
}

var curves = []curve{
	{[]byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}, "ECC_NIST_P256", 32, elliptic.P256()},
	{[]byte{0x2b, 0x81, 0x04, 0, 0x22}, "ECC_NIST_P384", 48, elliptic.P384()},
	{[]byte{0x2b, 0x81, 0x04, 0, 0x23}, "ECC_NIST_P521", 66, elliptic.P521()},
	{[]byte{0x2b, 0x81, 0x04, 0, 0x0a}, "ECC_SECG_P256K1", 32, nil},
}

// readEC reads ECPrivateKey (RFC 5915, section 3) of a curve that the parameters name (RFC 5480, section 2.1.1): the
// private scalar in as many bytes as the order of the curve has, 1 to the order less 1, and the public point, where it is
// there, of that scalar.
func readEC(parameters, secret, public []byte) (*Key, error) {
	named := reader{rest: parameters}
	oid := named.next(tagOID)
	all := reader{rest: secret}
	key := all.in(tagSequence)
	version := key.integer()
	scalar := key.next(tagOctetString)
	again := oid
	if key.has(tagContext0) {
		inner := key.in(tagContext0)
		if again = inner.next(tagOID); !inner.end() {
			return nil, ErrForm
		}
	}
	var point []byte
	if key.has(tagContext1) {
		inner := key.in(tagContext1)
		if point = inner.bits(tagBitString); !inner.end() {
			return nil, ErrForm
		}
	}
	if !named.end() || !all.end() || !key.end() || version.Cmp(one) != 0 || public != nil || !bytes.Equal(again, oid) {
		return nil, ErrForm
	}
	for i := range curves {
		if bytes.Equal(curves[i].oid, oid) {
			return curves[i].key(scalar, point)
		}
	}
	return nil, refused("its curve is none of P-256, P-384, P-521 and secp256k1")
}

// key checks a scalar of the curve, and the point that the file has for it.
func (c *curve) key(scalar, point []byte) (*Key, error) {
	if len(scalar) != c.size {
		return nil, ErrForm
	}
	mine, err := c.point(scalar)
	if err != nil {
		return nil, refused("its private scalar is not one of %s", c.spec)
	}
	if point != nil && !samePoint(mine, point) {
		return nil, refused("its public point is not that of the private scalar")
	}
	return &Key{Spec: c.spec, Secret: bytes.Clone(scalar)}, nil
}

// point returns the public point of a scalar, uncompressed (SEC 1, section 2.3.3).
func (c *curve) point(scalar []byte) ([]byte, error) {
	if c.std == nil {
		private, err := secp256k1.NewPrivateKey(scalar)
		if err != nil {
			return nil, err
		}
		return private.Public().(*secp256k1.PublicKey).Bytes(), nil
	}
	private, err := ecdsa.ParseRawPrivateKey(c.std, scalar)
	if err != nil {
		return nil, err
	}
	return private.PublicKey.Bytes()
}

// samePoint reports whether point is the uncompressed one, or its compressed form (SEC 1, section 2.3.3).
func samePoint(uncompressed, point []byte) bool {
	if len(point) == len(uncompressed) {
		return bytes.Equal(point, uncompressed)
	}
	size := len(uncompressed) / 2
	return len(point) == 1+size && point[0] == 2|uncompressed[2*size]&1 && bytes.Equal(point[1:], uncompressed[1:1+size])
}

// readEd25519 reads CurvePrivateKey, the seed (RFC 8410, section 7).
func readEd25519(parameters, secret, public []byte) (*Key, error) {
	all := reader{rest: secret}
	seed := all.next(tagOctetString)
	if !all.end() || len(parameters) != 0 || len(seed) != ed25519.SeedSize {
		return nil, ErrForm
	}
	mine := ed25519.NewKeyFromSeed(seed)[ed25519.SeedSize:]
	if public != nil && subtle.ConstantTimeCompare(public, mine) != 1 {
		return nil, refused("its public key is not that of the seed")
	}
	return &Key{Spec: "ECC_NIST_EDWARDS25519", Secret: bytes.Clone(seed)}, nil
}
