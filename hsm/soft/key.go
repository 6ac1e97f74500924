package soft

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync/atomic"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

// errSignature is returned when a fresh signature does not verify: a bit flipped in memory, or the file was altered.
var errSignature = errors.New("soft: signature does not verify")

// key is what both kinds of keys share: a place in the token's image, which never moves within it.
type key struct {
	token  *Token
	at     int
	closed atomic.Bool
}

// newKey returns the key at offset at of img, with the abilities of its spec and no others.
func newKey(t *Token, img image, at int) (hsm.Key, error) {
	k := &key{token: t, at: at}
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

// use runs f with the key's secret, which is gone when f returns.
func (k *key) use(ctx context.Context, f func(secret []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.token.view(func(img image) (err error) {
		if k.closed.Load() {
			return hsm.ErrClosed
		}
		securemem.Do(func() { err = f(img.secret(k.at)) })
		return err
	})
}

func (k *key) Close() error {
	k.closed.Store(true)
	return nil
}

type prfKey struct{ *key }

var _ hsm.PRF = prfKey{}

func (prfKey) Spec() hsm.Spec           { return hsm.PRFSHA256 }
func (prfKey) Public() crypto.PublicKey { return nil }
func (prfKey) Abilities() hsm.Abilities { return hsm.CanPRF }

func (k prfKey) PRF(ctx context.Context, dst, input []byte) ([]byte, error) {
	if len(input) < 1 || len(input) > hsm.MaxPRFInput {
		return nil, hsm.ErrInput
	}
	err := k.use(ctx, func(secret []byte) error {
		mac := hmac.New(sha256.New, secret)
		mac.Write(input)
		dst = mac.Sum(dst)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}

type signKey struct {
	*key
	public *ecdsa.PublicKey
}

var _ hsm.Signer = signKey{}

func (signKey) Spec() hsm.Spec             { return hsm.SignP256 }
func (k signKey) Public() crypto.PublicKey { return k.public }
func (signKey) Abilities() hsm.Abilities   { return hsm.CanSign }

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

func parse(secret []byte) (*ecdsa.PrivateKey, error) {
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), secret)
}
