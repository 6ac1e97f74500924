package secp256k1

import (
	"bytes"
	"errors"
)

// The DER of a SubjectPublicKeyInfo (RFC 5480) on this curve, up to the point, and that of a PrivateKeyInfo (RFC 5208)
// with an ECPrivateKey (RFC 5915), up to the scalar and from there to the point. All have one length.
var (
	spkiHead = []byte{
		0x30, 0x56, // SubjectPublicKeyInfo
		0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 0x04, 0, 0x0a, // id-ecPublicKey, secp256k1
		3, 0x42, 0, // BIT STRING, no bits left over
	}
	pkcs8Head = []byte{
		0x30, 0x81, 0x84, 2, 1, 0, // PrivateKeyInfo, version 0
		0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 0x04, 0, 0x0a,
		4, 0x6d, 0x30, 0x6b, 2, 1, 1, // ECPrivateKey, version 1
		4, 0x20,
	}
	pkcs8Point = []byte{0xa1, 0x44, 3, 0x42, 0} // publicKey [1]
)

// MarshalPKIX returns the key's SubjectPublicKeyInfo (RFC 5480), 88 bytes of DER.
func (k *PublicKey) MarshalPKIX() []byte { return append(bytes.Clone(spkiHead), k.Bytes()...) }

// ParsePKIX reads what MarshalPKIX returns. Each key has this one encoding: the curve by its name, the point
// uncompressed.
func ParsePKIX(spki []byte) (*PublicKey, error) {
	point, ok := bytes.CutPrefix(spki, spkiHead)
	if !ok {
		return nil, errors.New("secp256k1: not a SubjectPublicKeyInfo of this curve, with an uncompressed point")
	}
	return NewPublicKey(point)
}

// AppendPKCS8 appends the key's PrivateKeyInfo (RFC 5208) to dst, 135 bytes of DER, as openssl writes it: with the
// public point.
func (k *PrivateKey) AppendPKCS8(dst []byte) []byte {
	dst = k.AppendScalar(append(dst, pkcs8Head...))
	return append(append(dst, pkcs8Point...), k.public.Bytes()...)
}
