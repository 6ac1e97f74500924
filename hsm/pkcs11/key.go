//go:build cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

// key is what both kinds of keys share.
type key struct {
	token  *Token
	blob   blob
	public *ecdsa.PublicKey // of a signing key
	closed atomic.Bool

	// mu guards where the key was found: a handle is good for one connection, and until a key is destroyed.
	mu     sync.Mutex
	conn   *conn
	epoch  uint64
	handle pkcs11.ObjectHandle
}

// newKey returns a Key with the abilities of its spec and no others.
func newKey(t *Token, b blob) (*key, hsm.Key, error) {
	k := &key{token: t, blob: b}
	if b.spec == hsm.PRFSHA256 {
		return k, prfKey{k}, nil
	}
	var err error
	if k.public, err = parsePoint(b.proof); err != nil {
		return nil, nil, hsm.ErrBlob
	}
	return k, signKey{k}, nil
}

// Spec returns what kind of key it is.
func (k *key) Spec() hsm.Spec { return k.blob.spec }

// Close marks this handle alone; other handles of the same key go on.
func (k *key) Close() error {
	k.closed.Store(true)
	return nil
}

// use is Token.do for a job that needs the key's handle.
func (k *key) use(ctx context.Context, j job, run func(s session, o pkcs11.ObjectHandle) error) error {
	if ctx.Err() == nil && k.closed.Load() {
		j.finish()
		return hsm.ErrClosed
	}
	j.run = func(s session) error {
		o, err := k.locate(s)
		if err != nil {
			return err
		}
		if err = run(s, o); !isCode(err, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			return err
		}
		k.lose() // another process has moved it, or ended it
		if o, err = k.locate(s); err != nil {
			return err
		}
		return run(s, o)
	}
	return k.token.do(ctx, j)
}

// locate returns the key's handle. It searches the token, and checks what it finds, once a connection and after each Destroy.
func (k *key) locate(s session) (pkcs11.ObjectHandle, error) {
	epoch := k.token.epochNow()
	k.mu.Lock()
	conn, at, o := k.conn, k.epoch, k.handle
	k.mu.Unlock()
	if conn == s.conn && at == epoch {
		return o, nil
	}
	all, err := s.find(classOf(k.blob.spec), k.blob.id)
	switch {
	case err != nil:
		return 0, err
	case len(all) == 0:
		return 0, k.token.none(s)
	case len(all) > 1:
		return 0, fmt.Errorf("%w: %d keys have %x", ErrTwice, len(all), k.blob.id)
	}
	if err := s.audit(all[0], k.blob.spec); err != nil {
		return 0, err
	}
	if err := k.prove(s, all[0]); err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conn, k.epoch, k.handle = s.conn, epoch, all[0]
	return all[0], nil
}

func (k *key) lose() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conn = nil
}

// prove has the object show that it is the key of the blob: not everything that has its id and attributes is.
func (k *key) prove(s session, o pkcs11.ObjectHandle) error {
	if k.blob.spec == hsm.PRFSHA256 {
		var proof [sha256.Size]byte
		if err := s.mac(o, k.blob.proofInput(), proof[:]); err != nil {
			return err
		}
		if !hmac.Equal(proof[:], k.blob.proof) {
			return hsm.ErrBlob
		}
		return nil
	}
	h := sha256.New()
	h.Write(k.blob.proofInput())
	var nonce [32]byte
	_, _ = rand.Read(nonce[:]) // never fails
	h.Write(nonce[:])
	_, ok, err := s.sign(o, k.public, h.Sum(nil))
	if err == nil && !ok {
		return hsm.ErrBlob
	}
	return err
}

// mac has o compute HMAC-SHA-256 of in (PKCS#11 2.40, section 2.24) into out, 32 bytes.
func (s session) mac(o pkcs11.ObjectHandle, in, out []byte) error {
	if err := s.SignInit(s.SessionHandle, mechanisms(pkcs11.CKM_SHA256_HMAC), o); err != nil {
		return called("C_SignInit", err)
	}
	n, err := s.Sign(s.SessionHandle, in, out)
	if err != nil {
		return called("C_Sign", err)
	}
	if n != sha256.Size {
		return fmt.Errorf("%w: an HMAC-SHA-256 of %d bytes", ErrReply, n)
	}
	return nil
}

// sign has o sign a digest with ECDSA (PKCS#11 2.40, section 2.3.6), and reports whether the signature verifies. It is DER.
func (s session) sign(o pkcs11.ObjectHandle, public *ecdsa.PublicKey, digest []byte) (der []byte, ok bool, err error) {
	if err := s.SignInit(s.SessionHandle, mechanisms(pkcs11.CKM_ECDSA), o); err != nil {
		return nil, false, called("C_SignInit", err)
	}
	var raw [64 + 1]byte // one more, to see that it is not longer
	n, err := s.Sign(s.SessionHandle, digest, raw[:])
	if err != nil {
		return nil, false, called("C_Sign", err)
	}
	if n != 64 {
		return nil, false, fmt.Errorf("%w: an ECDSA signature on P-256 of %d bytes", ErrReply, n)
	}
	der, err = asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:64])})
	if err != nil {
		return nil, false, err
	}
	return der, ecdsa.VerifyASN1(public, digest, der), nil
}

// prfKey is a PRFSHA256 key.
type prfKey struct{ *key }

var _ hsm.PRF = prfKey{}

// Public returns nil: the key is secret.
func (prfKey) Public() crypto.PublicKey { return nil }

// Abilities returns CanPRF.
func (prfKey) Abilities() hsm.Abilities { return hsm.CanPRF }

// PRF implements hsm.PRF. Input and output pass through locked memory only.
func (k prfKey) PRF(ctx context.Context, dst, input []byte) ([]byte, error) {
	if len(input) < 1 || len(input) > hsm.MaxPRFInput {
		return nil, hsm.ErrInput
	}
	buf, err := securemem.New(len(input) + sha256.Size)
	if err != nil {
		return nil, err
	}
	in, out := buf.Bytes()[:len(input)], buf.Bytes()[len(input):]
	copy(in, input)
	err = k.use(ctx, job{taken: func() { dst = append(dst, out...) }, end: buf.Free}, func(s session, o pkcs11.ObjectHandle) error {
		return s.mac(o, in, out)
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}

// signKey is a SignP256 key.
type signKey struct{ *key }

var _ hsm.Signer = signKey{}

// Public returns the public half, as the token gave it when the key was made.
func (k signKey) Public() crypto.PublicKey { return k.public }

// Abilities returns CanSign.
func (signKey) Abilities() hsm.Abilities { return hsm.CanSign }

// SignDigest implements hsm.Signer.
func (k signKey) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	if len(digest) != sha256.Size {
		return nil, hsm.ErrInput
	}
	in := [sha256.Size]byte(digest) // a call that is left behind goes on reading
	var signature, taken []byte
	err := k.use(ctx, job{taken: func() { taken = signature }}, func(s session, o pkcs11.ObjectHandle) error {
		der, ok, err := s.sign(o, k.public, in[:])
		if err == nil && !ok {
			err = fmt.Errorf("%w: a signature that does not verify", ErrReply)
		}
		signature = der
		return err
	})
	if err != nil {
		return nil, err
	}
	return taken, nil
}
