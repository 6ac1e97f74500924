package domain_test

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"

	"github.com/keyrack/keyrack/hsm"
)

// knownToken is a token with one root key that the test knows, so that it can compute what must be stored. Its blob is "root".
type knownToken struct {
	hsm.Provider // nil: what is not below must not be called

	root   []byte
	before func() error // runs before each PRF; may be nil
	after  func([]byte) []byte
}

func (t *knownToken) Describe() hsm.Description { return hsm.Description{Kind: "soft"} }

func (t *knownToken) Generate(ctx context.Context, _ hsm.Spec) (hsm.Key, []byte, error) {
	k, err := t.Load(ctx, []byte("root"))
	return k, []byte("root"), err
}

func (t *knownToken) Load(_ context.Context, blob []byte) (hsm.Key, error) {
	if string(blob) != "root" {
		return nil, hsm.ErrBlob
	}
	return knownRoot{t}, nil
}

// Destroy knows no key: what a test knows cannot be ended.
func (t *knownToken) Destroy(context.Context, []byte) error { return hsm.ErrBlob }

type knownRoot struct{ token *knownToken }

func (knownRoot) Spec() hsm.Spec           { return hsm.PRFSHA256 }
func (knownRoot) Public() crypto.PublicKey { return nil }
func (knownRoot) Abilities() hsm.Abilities { return hsm.CanPRF }
func (knownRoot) Close() error             { return nil }

func (k knownRoot) PRF(_ context.Context, dst, input []byte) ([]byte, error) {
	if k.token.before != nil {
		if err := k.token.before(); err != nil {
			return nil, err
		}
	}
	mac := hmac.New(sha256.New, k.token.root)
	mac.Write(input)
	dst = mac.Sum(dst)
	if k.token.after != nil {
		dst = k.token.after(dst)
	}
	return dst, nil
}
