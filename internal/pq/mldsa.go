package pq

import (
	"crypto"
	"fmt"
	"io"

	"filippo.io/mldsa"
	"filippo.io/mldsa/mldsacrypto"
)

// What is signed, for SigningKey.Sign and VerifyingKey.Valid: Message is the message itself with an empty context, Mu
// is the 64 bytes of its representative (FIPS 204, algorithm 7, line 6; RFC 9881, appendix D).
var (
	Message crypto.SignerOpts = crypto.Hash(0)
	Mu      crypto.SignerOpts = mldsacrypto.MLDSAMu
)

// parameters returns the library's name of a parameter set of ML-DSA.
func parameters(s Set) (mldsa.Parameters, error) {
	switch s {
	case MLDSA44:
		return mldsa.MLDSA44(), nil
	case MLDSA65:
		return mldsa.MLDSA65(), nil
	case MLDSA87:
		return mldsa.MLDSA87(), nil
	}
	return mldsa.Parameters{}, errNoSet
}

// SigningKey is a private key of ML-DSA. It takes some 100 kB. Safe for concurrent use.
type SigningKey struct {
	key *mldsa.PrivateKey
	set Set
}

// NewSigningKey expands a seed of 32 bytes, which it copies (FIPS 204, algorithm 6). ErrSize for another length.
func NewSigningKey(s Set, seed []byte) (*SigningKey, error) {
	p, err := parameters(s)
	if err != nil {
		return nil, err
	}
	if len(seed) != SigningSeed {
		return nil, fmt.Errorf("%w: a seed of %d bytes", ErrSize, len(seed))
	}
	k, err := mldsa.NewPrivateKey(p, seed)
	if err != nil {
		return nil, err
	}
	return &SigningKey{k, s}, nil
}

// Public returns the public key, a *VerifyingKey that shares no memory with the private one.
func (k *SigningKey) Public() crypto.PublicKey {
	public, err := NewVerifyingKey(k.set, k.key.PublicKey().Bytes())
	if err != nil { // the library's own bytes
		panic(err)
	}
	return public
}

// Sign returns a signature of what opts says message is, Message or Mu: 2420, 3309 or 4627 bytes. It is hedged
// (FIPS 204, section 3.4): fresh random bytes go into each, and the reader is not used.
func (k *SigningKey) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.key.Sign(nil, message, opts)
}

// VerifyingKey is a public key of ML-DSA. Safe for concurrent use.
type VerifyingKey struct {
	key *mldsa.PublicKey
	raw []byte
	set Set
}

// NewVerifyingKey returns the public key of 1312, 1952 or 2592 bytes, which it copies. ErrSize for another length.
func NewVerifyingKey(s Set, raw []byte) (*VerifyingKey, error) {
	p, err := parameters(s)
	if err != nil {
		return nil, err
	}
	if len(raw) != s.PublicKeySize() {
		return nil, fmt.Errorf("%w: a public key of %d bytes", ErrSize, len(raw))
	}
	k, err := mldsa.NewPublicKey(p, raw)
	if err != nil {
		return nil, err
	}
	return &VerifyingKey{k, k.Bytes(), s}, nil
}

// Set returns the parameter set.
func (k *VerifyingKey) Set() Set { return k.set }

// Bytes returns the public key (FIPS 204, algorithm 22). It is not to be changed.
func (k *VerifyingKey) Bytes() []byte { return k.raw }

// Valid reports whether signature, of any length, is one of what opts says message is, Message or Mu.
func (k *VerifyingKey) Valid(message, signature []byte, opts crypto.SignerOpts) bool {
	switch opts.HashFunc() {
	case Message.HashFunc():
		return mldsa.Verify(k.key, message, signature, nil) == nil
	case Mu.HashFunc():
		return verifyMu(k.set, k.raw, message, signature)
	}
	return false
}
