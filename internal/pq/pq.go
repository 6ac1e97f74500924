// Package pq is the post-quantum algorithms of the product: ML-DSA (FIPS 204) and ML-KEM (FIPS 203), made from seeds,
// with the DER forms of their keys (RFC 9881 and RFC 9935). Read Set, SigningKey and DecapsulationKey first.
//
// What computes, and why it was chosen:
//
//   - ML-KEM-768 and ML-KEM-1024 are the standard library's crypto/mlkem, a part of the FIPS 140-3 module.
//   - ML-KEM-512 is circl's: the standard library has none.
//   - ML-DSA keys and signatures are filippo.io/mldsa, which is the code of Go's own module as a library (constant time,
//     from a seed, and with an entry for a message representative computed elsewhere, which circl has not) and becomes
//     the standard library's crypto/mldsa with Go 1.27.
//   - No Go library verifies a signature of such a representative through an exported entry: VerifyMu does it here, over
//     public values alone. NIST's answers and every signature that the library makes are its tests.
//   - Where a private key comes with its expanded form, circl says whether that is the one of its seed.
//
// filippo.io/mldsa and circl are not parts of the FIPS 140-3 module. The package keeps no keys and knows no locked
// memory: what is made of a seed lives on the heap, so callers make it inside securemem.Do. It has no HashML-DSA and no
// context strings, because AWS KMS has none.
package pq

import "errors"

// Set is a parameter set: which of the six algorithms.
type Set uint8

// The parameter sets of FIPS 204 (table 1) and FIPS 203 (table 2).
const (
	MLDSA44 Set = iota + 1
	MLDSA65
	MLDSA87
	MLKEM512
	MLKEM768
	MLKEM1024
)

// Sizes in bytes.
const (
	SigningSeed       = 32 // xi of FIPS 204, algorithm 6
	DecapsulationSeed = 64 // d and z of FIPS 203, algorithm 16
	MuSize            = 64 // mu of FIPS 204, algorithm 7
	SharedSecret      = 32 // of every ML-KEM
)

// set is what a Set means.
type set struct {
	name     string
	oid      [9]byte // the value of its object identifier in DER
	seed     int     // bytes of a seed
	public   int     // bytes of a public key
	output   int     // bytes of a signature, or of a ciphertext
	expanded int     // bytes of the expanded private key
}

// sets is the table of parameter sets: sizes of FIPS 204, table 2, and FIPS 203, table 3; object identifiers of
// RFC 9881, section 2, and RFC 9935, section 3 (2.16.840.1.101.3.4.3.17 and on, 2.16.840.1.101.3.4.4.1 and on).
var sets = [...]set{
	MLDSA44:   {"ML-DSA-44", nist(3, 17), SigningSeed, 1312, 2420, 2560},
	MLDSA65:   {"ML-DSA-65", nist(3, 18), SigningSeed, 1952, 3309, 4032},
	MLDSA87:   {"ML-DSA-87", nist(3, 19), SigningSeed, 2592, 4627, 4896},
	MLKEM512:  {"ML-KEM-512", nist(4, 1), DecapsulationSeed, 800, 768, 1632},
	MLKEM768:  {"ML-KEM-768", nist(4, 2), DecapsulationSeed, 1184, 1088, 2400},
	MLKEM1024: {"ML-KEM-1024", nist(4, 3), DecapsulationSeed, 1568, 1568, 3168},
}

// nist returns an object identifier below NIST's arc of algorithms.
func nist(class, number byte) [9]byte {
	return [9]byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, class, number}
}

// String returns the standard's name, as in "ML-KEM-768".
func (s Set) String() string { return s.row().name }

// SeedSize returns how many bytes a seed has: 32 of ML-DSA, 64 of ML-KEM.
func (s Set) SeedSize() int { return s.row().seed }

// PublicKeySize returns how many bytes a public key has.
func (s Set) PublicKeySize() int { return s.row().public }

// OutputSize returns how many bytes a signature or a ciphertext has.
func (s Set) OutputSize() int { return s.row().output }

func (s Set) row() *set {
	if int(s) < len(sets) {
		return &sets[s]
	}
	return &sets[0]
}

// ErrSize is the cause when a seed, a public key or a ciphertext has not the one length that it can have.
var ErrSize = errors.New("pq: wrong length")

// errNoSet is the cause when a parameter set is not one of the algorithm asked for.
var errNoSet = errors.New("pq: no such parameter set")
