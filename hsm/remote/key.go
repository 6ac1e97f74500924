package remote

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/keyrack/keyrack/hsm"
)

// key is what both kinds of keys share. The other process knows it by its blob alone, so it survives that process.
type key struct {
	token  *Token
	spec   hsm.Spec
	head   []byte // the blob as requests have it
	public *ecdsa.PublicKey
	closed atomic.Bool
}

// newKey returns a Key with the abilities of its spec and no others.
func (t *Token) newKey(m madeKey) (hsm.Key, error) {
	public, err := parsePublic(m.Spec, m.Public)
	if err != nil {
		return nil, err
	}
	head := append(binary.BigEndian.AppendUint16(nil, uint16(len(m.Blob))), m.Blob...)
	k := &key{token: t, spec: m.Spec, head: head, public: public}
	if public == nil {
		return prfKey{k}, nil
	}
	return signKey{k}, nil
}

// Spec returns what kind of key it is.
func (k *key) Spec() hsm.Spec { return k.spec }

// Close marks this handle alone; other handles of the same key go on.
func (k *key) Close() error {
	k.closed.Store(true)
	return nil
}

// use sends a request about the key.
func (k *key) use(ctx context.Context, op byte, input []byte, take func([]byte) error) error {
	if ctx.Err() == nil && k.closed.Load() {
		return hsm.ErrClosed
	}
	return k.token.do(ctx, op, k.head, input, take)
}

// prfKey is a PRFSHA256 key.
type prfKey struct{ *key }

var _ hsm.PRF = prfKey{}

// Public returns nil: the key is secret.
func (prfKey) Public() crypto.PublicKey { return nil }

// Abilities returns CanPRF.
func (prfKey) Abilities() hsm.Abilities { return hsm.CanPRF }

// PRF implements hsm.PRF. On both sides input and output pass through locked memory; between them the kernel has them for a moment.
func (k prfKey) PRF(ctx context.Context, dst, input []byte) ([]byte, error) {
	if len(input) < 1 || len(input) > hsm.MaxPRFInput {
		return nil, hsm.ErrInput
	}
	err := k.use(ctx, opPRF, input, func(body []byte) error {
		if len(body) != sha256.Size {
			return fmt.Errorf("%w: a PRF of %d bytes", ErrReply, len(body))
		}
		dst = append(dst, body...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}

// signKey is a SignP256 key.
type signKey struct{ *key }

var _ hsm.Signer = signKey{}

// Public returns the public half.
func (k signKey) Public() crypto.PublicKey { return k.public }

// Abilities returns CanSign.
func (signKey) Abilities() hsm.Abilities { return hsm.CanSign }

// SignDigest implements hsm.Signer. The signature is verified on this side too.
func (k signKey) SignDigest(ctx context.Context, digest []byte) (signature []byte, err error) {
	if len(digest) != sha256.Size {
		return nil, hsm.ErrInput
	}
	err = k.use(ctx, opSign, digest, func(body []byte) error {
		if !ecdsa.VerifyASN1(k.public, digest, body) {
			return fmt.Errorf("%w: a signature that does not verify", ErrReply)
		}
		signature = slices.Clone(body)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return signature, nil
}
