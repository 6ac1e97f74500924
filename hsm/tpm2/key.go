package tpm2

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"

	tpm "github.com/google/go-tpm/tpm2"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

// errSignature is returned when a fresh signature does not verify: a fault in the chip or on the bus.
var errSignature = errors.New("tpm2: signature does not verify")

// key is what both kinds of keys share. It holds no handle: an operation loads the key unless it is the one that is loaded.
type key struct {
	token  *Token
	blob   *blob
	name   tpm.TPM2BName
	closed atomic.Bool
}

// newKey returns the key of b with the abilities of its spec and no others, and its Name.
func newKey(t *Token, b *blob) (hsm.Key, tpm.TPM2BName, error) {
	public, err := b.public()
	if err != nil {
		return nil, tpm.TPM2BName{}, err
	}
	name, err := tpm.ObjectName(public)
	if err != nil {
		return nil, tpm.TPM2BName{}, err
	}
	k := &key{token: t, blob: b, name: *name}
	if b.spec == hsm.PRFSHA256 {
		return prfKey{k}, *name, nil
	}
	point, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, b.unique...))
	if err != nil {
		return nil, *name, fmt.Errorf("%w: damaged blob", hsm.ErrBlob)
	}
	return signKey{k, point}, *name, nil
}

// use runs f with the key loaded and a session that satisfies its policy, good for one command.
func (k *key) use(ctx context.Context, encryptReply bool, f func(*link, tpm.AuthHandle) error) error {
	return k.token.use(ctx, func(l *link) error {
		if k.closed.Load() {
			return hsm.ErrClosed
		}
		return k.token.apply(l, k.blob, k.name, encryptReply, f)
	})
}

// apply is use for an operation that has the token already.
func (t *Token) apply(l *link, b *blob, name tpm.TPM2BName, encryptReply bool, f func(*link, tpm.AuthHandle) error) error {
	if b.pin {
		if err := t.pin.check(l); err != nil {
			return err
		}
	}
	if err := l.load(b, name); err != nil {
		return err
	}
	s, err := l.session(sessionKind{encryptReply, b.pin}, t.pin.value(b.pin))
	if err != nil {
		return err
	}
	if err := l.satisfy(b, s); err != nil {
		return err
	}
	err = f(l, tpm.AuthHandle{Handle: l.key, Name: name, Auth: s})
	if b.pin {
		return t.pin.learn(err)
	}
	return err
}

// satisfy runs the key's policy in a session. The chip takes it back when the session was used.
func (l *link) satisfy(b *blob, s tpm.Session) error {
	check, err := b.epoch.check()
	if err != nil {
		return err
	}
	check.PolicySession = s.Handle()
	if _, err := run(l, check.Execute); err != nil {
		return l.why(b.epoch, err)
	}
	if b.pin {
		_, err = run(l, tpm.PolicyAuthValue{PolicySession: s.Handle()}.Execute)
	}
	return err
}

// why returns hsm.ErrBlob when a policy failed because the key was destroyed, which takes more than an error code to believe:
// nothing authenticates those.
func (l *link) why(e epoch, err error) error {
	if errors.Is(err, tpm.TPMRCHandle) || errors.Is(err, tpm.TPMRCPolicy) || errors.Is(err, tpm.TPMRCNVUninitialized) {
		l.clear()
		if _, gone := l.readEpoch(e, e.count); gone != nil {
			return gone
		}
	}
	return err
}

// load brings the key into the chip. It returns hsm.ErrBlob when the chip does not know it as its own.
func (l *link) load(b *blob, name tpm.TPM2BName) error {
	if l.key != 0 && l.loaded.equal(b) {
		return nil
	}
	l.clearKey()
	public, err := b.public()
	if err != nil {
		return err
	}
	reply, err := run(l, tpm.Load{
		ParentHandle: l.root.auth(tpm.PasswordAuth(nil)),
		InPrivate:    tpm.TPM2BPrivate{Buffer: b.private},
		InPublic:     tpm.New2B(*public),
	}.Execute)
	var e tpm.TPMFmt1Error
	if errors.As(err, &e) {
		if parameter, _ := e.Parameter(); parameter {
			return fmt.Errorf("%w: damaged blob", hsm.ErrBlob)
		}
	}
	if err != nil {
		return err
	}
	l.key, l.loaded = reply.ObjectHandle, b
	if !bytes.Equal(reply.Name.Buffer, name.Buffer) {
		return l.garbage(errors.New("another key than the one to load"))
	}
	return nil
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

// PRF implements hsm.PRF with one TPM2_HMAC. It returns hsm.ErrBlob for a key that was destroyed, ErrPIN or ErrLockout.
func (k prfKey) PRF(ctx context.Context, dst, input []byte) ([]byte, error) {
	if len(input) < 1 || len(input) > hsm.MaxPRFInput {
		return nil, hsm.ErrInput
	}
	var out []byte
	err := k.use(ctx, true, func(l *link, h tpm.AuthHandle) (err error) {
		out, err = l.hmac(dst, h, input)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// hmac appends the key's HMAC of input to dst.
func (l *link) hmac(dst []byte, h tpm.AuthHandle, input []byte) ([]byte, error) {
	reply, err := run(l, tpm.Hmac{Handle: h, Buffer: tpm.TPM2BMaxBuffer{Buffer: input}, HashAlg: tpm.TPMAlgSHA256}.Execute)
	if err != nil {
		return nil, err
	}
	defer securemem.Wipe(reply.OutHMAC.Buffer)
	if len(reply.OutHMAC.Buffer) != sha256.Size {
		return nil, l.garbage(fmt.Errorf("an HMAC of %d bytes", len(reply.OutHMAC.Buffer)))
	}
	return append(dst, reply.OutHMAC.Buffer...), nil
}

// signKey is a SignP256 key.
type signKey struct {
	*key
	public *ecdsa.PublicKey
}

var _ hsm.Signer = signKey{}

func (signKey) Spec() hsm.Spec             { return hsm.SignP256 }
func (k signKey) Public() crypto.PublicKey { return k.public }
func (signKey) Abilities() hsm.Abilities   { return hsm.CanSign }

// SignDigest implements hsm.Signer with one TPM2_Sign. It returns hsm.ErrBlob for a key that was destroyed, ErrPIN or ErrLockout.
func (k signKey) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	if len(digest) != sha256.Size {
		return nil, hsm.ErrInput
	}
	var signature []byte
	err := k.use(ctx, false, func(l *link, h tpm.AuthHandle) (err error) {
		signature, err = l.sign(h, digest)
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

// sign returns the key's signature of digest in DER, unverified.
func (l *link) sign(h tpm.AuthHandle, digest []byte) ([]byte, error) {
	reply, err := run(l, tpm.Sign{
		KeyHandle:  h,
		Digest:     tpm.TPM2BDigest{Buffer: digest},
		InScheme:   tpm.TPMTSigScheme{Scheme: tpm.TPMAlgNull},
		Validation: tpm.TPMTTKHashCheck{Tag: tpm.TPMSTHashCheck},
	}.Execute)
	if err != nil {
		return nil, err
	}
	pair, err := reply.Signature.Signature.ECDSA()
	if err != nil {
		return nil, l.garbage(err)
	}
	r, s := new(big.Int).SetBytes(pair.SignatureR.Buffer), new(big.Int).SetBytes(pair.SignatureS.Buffer)
	return asn1.Marshal(struct{ R, S *big.Int }{r, s})
}
