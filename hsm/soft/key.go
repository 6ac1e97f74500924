package soft

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync/atomic"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
)

// errSignature is returned when a fresh signature does not verify: a bit flipped in memory, or the file was altered.
var errSignature = errors.New("soft: signature does not verify")

// key is what both kinds of keys share: an id, under which the token's image has it or no longer has it. It holds no secret
// itself, so that closing the token, or destroying the key, wipes the only copy there is.
type key struct {
	token  *Token
	id     [idSize]byte
	closed atomic.Bool
}

// newKey returns the key with this id, at offset at of img, with the abilities of its spec and no others. The public half is computed here once,
// from the scalar as it is in memory now: a signature made with a scalar that changed later does not verify under it.
func newKey(t *Token, img image, id [idSize]byte, at int) (hsm.Key, error) {
	k := &key{token: t, id: id}
	if img.spec(at) == hsm.PRFSHA256 {
		return prfKey{k}, nil
	}
	public := new(ecdsa.PublicKey)
	var err error
	securemem.Do(func() {
		var private *ecdsa.PrivateKey
		if private, err = parse(img.secret(at)); err == nil {
			*public = private.PublicKey
		}
	})
	if err != nil {
		return nil, err
	}
	return signKey{k, public}, nil
}

// use runs f with the key's secret, which f must not keep. It returns hsm.ErrBlob for a key that was destroyed.
func (k *key) use(ctx context.Context, f func(secret []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.token.view(func(img image) (err error) {
		if k.closed.Load() {
			return hsm.ErrClosed
		}
		at, ok := img.find(k.id)
		if !ok {
			return hsm.ErrBlob
		}
		securemem.Do(func() { err = f(img.secret(at)) })
		return err
	})
}

// Close marks this handle alone; other handles of the same key go on.
func (k *key) Close() error {
	k.closed.Store(true)
	return nil
}

// prfKey is a PRFSHA256 key.
type prfKey struct{ *key }

var _ hsm.PRF = prfKey{}

func (prfKey) Spec() hsm.Spec           { return hsm.PRFSHA256 }
func (prfKey) Public() crypto.PublicKey { return nil }
func (prfKey) Abilities() hsm.Abilities { return hsm.CanPRF }

// PRF implements hsm.PRF.
func (k prfKey) PRF(ctx context.Context, dst, input []byte) ([]byte, error) {
	if len(input) < 1 || len(input) > hsm.MaxPRFInput {
		return nil, hsm.ErrInput
	}
	err := k.use(ctx, func(secret []byte) error {
		dst = seal.MAC(dst, secret, input)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}

// signKey is a SignP256 key. Its private half becomes an *ecdsa.PrivateKey for one signature at a time, inside securemem.Do: 14 µs
// dearer than keeping it, and nothing stays on the heap.
type signKey struct {
	*key
	public *ecdsa.PublicKey
}

var _ hsm.Signer = signKey{}

func (signKey) Spec() hsm.Spec             { return hsm.SignP256 }
func (k signKey) Public() crypto.PublicKey { return k.public }
func (signKey) Abilities() hsm.Abilities   { return hsm.CanSign }

// SignDigest implements hsm.Signer. The nonce is crypto/ecdsa's: from key, digest and
// randomness, so that neither a repeated state nor a weak generator reveals the key.
func (k signKey) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	if len(digest) != sha256.Size {
		return nil, hsm.ErrInput
	}
	var signature []byte
	err := k.use(ctx, func(secret []byte) error {
		private, err := parse(secret)
		if err != nil {
			return err
		}
		signature, err = ecdsa.SignASN1(rand.Reader, private, digest)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(k.public, digest, signature) {
		return nil, errSignature
	}
	return signature, nil
}

// parse returns the key of a stored scalar. It refuses zero and whatever is not below the order of the group.
func parse(secret []byte) (*ecdsa.PrivateKey, error) {
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), secret)
}
