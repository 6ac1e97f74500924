package pq

import (
	"crypto/mlkem"
	"fmt"

	"github.com/cloudflare/circl/kem/mlkem/mlkem512"
)

// DecapsulationKey is a private key of ML-KEM. It takes up to some 20 kB. Safe for concurrent use.
type DecapsulationKey struct {
	decapsulate func(ciphertext []byte) ([]byte, error)
	public      []byte
	set         Set
}

// NewDecapsulationKey expands a seed of 64 bytes, d and z, which it copies (FIPS 203, algorithm 16). ErrSize for
// another length.
func NewDecapsulationKey(s Set, seed []byte) (*DecapsulationKey, error) {
	if s < MLKEM512 || s > MLKEM1024 {
		return nil, errNoSet
	}
	if len(seed) != DecapsulationSeed {
		return nil, fmt.Errorf("%w: a seed of %d bytes", ErrSize, len(seed))
	}
	k := &DecapsulationKey{set: s}
	switch s {
	case MLKEM512:
		public, private := mlkem512.NewKeyFromSeed(seed)
		k.decapsulate = func(ciphertext []byte) ([]byte, error) {
			secret := make([]byte, SharedSecret)
			private.DecapsulateTo(secret, ciphertext)
			return secret, nil
		}
		k.public = make([]byte, mlkem512.PublicKeySize)
		public.Pack(k.public)
	case MLKEM768:
		private, err := mlkem.NewDecapsulationKey768(seed)
		if err != nil {
			return nil, err
		}
		k.decapsulate, k.public = private.Decapsulate, private.EncapsulationKey().Bytes()
	case MLKEM1024:
		private, err := mlkem.NewDecapsulationKey1024(seed)
		if err != nil {
			return nil, err
		}
		k.decapsulate, k.public = private.Decapsulate, private.EncapsulationKey().Bytes()
	}
	return k, nil
}

// Decapsulate returns the shared secret of a ciphertext, 32 bytes. A ciphertext that no encapsulation under the public
// key made gives another secret, always the same one (implicit rejection: FIPS 203, algorithm 18, line 9). ErrSize
// unless it has 768, 1088 or 1568 bytes: the one check of FIPS 203, section 7.3, that is not of the key.
func (k *DecapsulationKey) Decapsulate(ciphertext []byte) ([]byte, error) {
	if len(ciphertext) != k.set.OutputSize() {
		return nil, fmt.Errorf("%w: a ciphertext of %d bytes", ErrSize, len(ciphertext))
	}
	return k.decapsulate(ciphertext)
}

// Public returns the public key, which shares no memory with the private one.
func (k *DecapsulationKey) Public() (*EncapsulationKey, error) {
	return NewEncapsulationKey(k.set, k.public)
}

// EncapsulationKey is a public key of ML-KEM. Safe for concurrent use.
type EncapsulationKey struct {
	encapsulate func() (secret, ciphertext []byte)
	raw         []byte
	set         Set
}

// NewEncapsulationKey returns the public key of 800, 1184 or 1568 bytes, which it copies, and refuses one whose numbers
// are not reduced (FIPS 203, section 7.2). ErrSize for another length.
func NewEncapsulationKey(s Set, raw []byte) (*EncapsulationKey, error) {
	if s < MLKEM512 || s > MLKEM1024 {
		return nil, errNoSet
	}
	if len(raw) != s.PublicKeySize() {
		return nil, fmt.Errorf("%w: a public key of %d bytes", ErrSize, len(raw))
	}
	k := &EncapsulationKey{raw: append([]byte(nil), raw...), set: s}
	switch s {
	case MLKEM512:
		public := new(mlkem512.PublicKey)
		if err := public.Unpack(k.raw); err != nil {
			return nil, fmt.Errorf("pq: %w", err)
		}
		k.encapsulate = func() (secret, ciphertext []byte) {
			secret, ciphertext = make([]byte, SharedSecret), make([]byte, mlkem512.CiphertextSize)
			public.EncapsulateTo(ciphertext, secret, nil)
			return secret, ciphertext
		}
	case MLKEM768:
		public, err := mlkem.NewEncapsulationKey768(k.raw)
		if err != nil {
			return nil, err
		}
		k.encapsulate = public.Encapsulate
	case MLKEM1024:
		public, err := mlkem.NewEncapsulationKey1024(k.raw)
		if err != nil {
			return nil, err
		}
		k.encapsulate = public.Encapsulate
	}
	return k, nil
}

// Set returns the parameter set.
func (k *EncapsulationKey) Set() Set { return k.set }

// Bytes returns the public key (FIPS 203, algorithm 13). It is not to be changed.
func (k *EncapsulationKey) Bytes() []byte { return k.raw }

// Encapsulate returns a fresh shared secret of 32 bytes and the ciphertext that holds it, of 768, 1088 or 1568 bytes
// (FIPS 203, algorithm 20). Both are the caller's.
func (k *EncapsulationKey) Encapsulate() (secret, ciphertext []byte) { return k.encapsulate() }
