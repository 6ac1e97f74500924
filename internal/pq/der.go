package pq

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/kem"
	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem512"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// Tags of DER (X.690, section 8).
const (
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagOID         = 0x06
	tagSequence    = 0x30
	tagSeed        = 0x80 // [0] IMPLICIT OCTET STRING: "seed" of RFC 9881, section 6, and RFC 9935, section 6
)

// MarshalPKIX returns the DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7) of a public key of the set: the
// identifier without parameters, then the key as it is (RFC 9881, section 4; RFC 9935, section 4).
func MarshalPKIX(s Set, public []byte) []byte {
	oid := append([]byte{tagOID, 9}, s.row().oid[:]...)
	key := element(tagBitString, append([]byte{0}, public...))
	return element(tagSequence, append(element(tagSequence, oid), key...))
}

// ParsePKIX is the reverse of MarshalPKIX and takes nothing else. The key aliases der; its own form is not checked.
func ParsePKIX(der []byte) (s Set, public []byte, err error) {
	info, ok := whole(der, tagSequence)
	if !ok {
		return 0, nil, ErrNoKey
	}
	algorithm, key, ok := take(info, tagSequence)
	if s = setOf(algorithm); !ok || s == 0 {
		return 0, nil, ErrNoKey
	}
	public, ok = whole(key, tagBitString)
	if !ok || len(public) != 1+s.PublicKeySize() || public[0] != 0 {
		return 0, nil, ErrNoKey
	}
	return s, public[1:], nil
}

// AppendPKCS8 appends the PKCS#8 private key (RFC 5958, version 0) of a seed in its seed form (RFC 9881, section 6;
// RFC 9935, section 6): 54 bytes of ML-DSA, 86 of ML-KEM. It keeps no copy.
func AppendPKCS8(dst []byte, s Set, seed []byte) ([]byte, error) {
	if s.row().seed == 0 || len(seed) != s.SeedSize() {
		return dst, fmt.Errorf("%w: a seed of %d bytes", ErrSize, len(seed))
	}
	size := byte(len(seed)) // all lengths are below 128
	dst = append(dst, tagSequence, 20+size, tagInteger, 1, 0, tagSequence, 11, tagOID, 9)
	dst = append(dst, s.row().oid[:]...)
	dst = append(dst, tagOctetString, 2+size, tagSeed, size)
	return append(dst, seed...), nil
}

// Causes of ParsePKIX and ParsePKCS8. They say nothing of the bytes.
var (
	// ErrNoKey is the error for what is not in the form that is read. Other errors of ParsePKCS8 are of a key that is, and is not taken.
	ErrNoKey = errors.New("pq: no key of ML-DSA or ML-KEM in DER without anything besides")

	errExpanded = errors.New("pq: the private key is expanded: the form with its seed is needed")
	errUnlike   = errors.New("pq: the seed does not give the expanded private key beside it")
)

// ParsePKCS8 reads a PKCS#8 private key of version 0 in its seed form, or in the form with seed and expanded key, which
// must be the one of the seed; without attributes and public key. The seed aliases der. What checks an expanded key
// copies it: call it inside securemem.Do.
func ParsePKCS8(der []byte) (s Set, seed []byte, err error) {
	info, ok := whole(der, tagSequence)
	if !ok {
		return 0, nil, ErrNoKey
	}
	version, rest, ok := take(info, tagInteger)
	if !ok || !bytes.Equal(version, []byte{0}) {
		return 0, nil, ErrNoKey
	}
	algorithm, rest, ok := take(rest, tagSequence)
	if s = setOf(algorithm); !ok || s == 0 {
		return 0, nil, ErrNoKey
	}
	choice, ok := whole(rest, tagOctetString)
	if !ok {
		return 0, nil, ErrNoKey
	}
	if seed, ok := whole(choice, tagSeed); ok && len(seed) == s.SeedSize() {
		return s, seed, nil
	}
	if expanded, ok := whole(choice, tagOctetString); ok && len(expanded) == s.row().expanded {
		return 0, nil, errExpanded
	}
	seed, err = bothForm(s, choice)
	return s, seed, err
}

// bothForm reads the form with seed and expanded key.
func bothForm(s Set, choice []byte) ([]byte, error) {
	both, ok := whole(choice, tagSequence)
	if !ok {
		return nil, ErrNoKey
	}
	seed, rest, ok := take(both, tagOctetString)
	if !ok || len(seed) != s.SeedSize() {
		return nil, ErrNoKey
	}
	expanded, ok := whole(rest, tagOctetString)
	if !ok || len(expanded) != s.row().expanded {
		return nil, ErrNoKey
	}
	again, err := expand(s, seed)
	if err != nil || subtle.ConstantTimeCompare(again, expanded) != 1 {
		return nil, errUnlike
	}
	return seed, nil
}

// expand returns the expanded private key of a seed (FIPS 204, algorithm 24; FIPS 203, section 7.1).
func expand(s Set, seed []byte) ([]byte, error) {
	if s <= MLDSA87 {
		_, private := []sign.Scheme{mldsa44.Scheme(), mldsa65.Scheme(), mldsa87.Scheme()}[s-MLDSA44].DeriveKey(seed)
		return private.MarshalBinary()
	}
	_, private := []kem.Scheme{mlkem512.Scheme(), mlkem768.Scheme(), mlkem1024.Scheme()}[s-MLKEM512].DeriveKeyPair(seed)
	return private.MarshalBinary()
}

// setOf returns the set that the body of an AlgorithmIdentifier names, or 0.
func setOf(algorithm []byte) Set {
	oid, ok := whole(algorithm, tagOID)
	for s := MLDSA44; ok && s <= MLKEM1024; s++ {
		if bytes.Equal(oid, sets[s].oid[:]) {
			return s
		}
	}
	return 0
}

// element returns an element of DER.
func element(tag byte, body []byte) []byte {
	b := []byte{tag}
	switch size := len(body); {
	case size < 0x80:
		b = append(b, byte(size))
	case size < 0x100:
		b = append(b, 0x81, byte(size))
	default: // no key has 65536 bytes
		b = append(b, 0x82, byte(size>>8), byte(size))
	}
	return append(b, body...)
}

// take returns the body of the first element, which has that tag, and what follows it. Lengths have the one form that
// DER allows (X.690, section 10.1).
func take(der []byte, tag byte) (body, rest []byte, ok bool) {
	if len(der) < 2 || der[0] != tag {
		return nil, nil, false
	}
	size, at := int(der[1]), 2
	if more := size - 0x80; more >= 0 {
		if more < 1 || more > 2 || len(der) < 2+more {
			return nil, nil, false
		}
		size, at = 0, 2+more
		for _, b := range der[2:at] {
			size = size<<8 | int(b)
		}
		if size < 0x80 || more == 2 && size < 0x100 {
			return nil, nil, false
		}
	}
	if len(der)-at < size {
		return nil, nil, false
	}
	return der[at : at+size], der[at+size:], true
}

// whole returns the body of the one element that der is.
func whole(der []byte, tag byte) ([]byte, bool) {
	body, rest, ok := take(der, tag)
	return body, ok && len(rest) == 0
}
