package tlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Signature types of C2SP signed-note.
const (
	typeEd25519 = 0x01
	typeECDSA   = 0x02
)

// ErrKey is wrapped by errors about keys that cannot sign or check notes.
var ErrKey = errors.New("tlog: not a note key")

// Signer signs notes. [NewP256Signer] makes one.
type Signer = note.Signer

// Verifier checks the signatures of one key. [NewP256Verifier] and [ParseVerifier] make them.
type Verifier = note.Verifier

// p256 is an ECDSA P-256 key under a name: signature type 0x02 of C2SP signed-note, over
// SHA-256 of the text, ASN.1 DER.
type p256 struct {
	name string
	hash uint32
	pub  *ecdsa.PublicKey
	spki []byte
}

// NewP256Verifier returns the verifier of an ECDSA P-256 key that signs under name. Its key id
// is the first four bytes of SHA-256 of the public key in SPKI form, as C2SP signed-note wants
// for type 0x02. It returns [ErrKey] for another curve or a bad name.
func NewP256Verifier(name string, pub *ecdsa.PublicKey) (Verifier, error) { return newP256(name, pub) }

func newP256(name string, pub *ecdsa.PublicKey) (*p256, error) {
	if !ValidOrigin(name) {
		return nil, fmt.Errorf("%w: bad name", ErrKey)
	}
	if pub == nil || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: not on P-256", ErrKey)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	id := sha256.Sum256(spki)
	return &p256{name: name, hash: binary.BigEndian.Uint32(id[:]), pub: pub, spki: spki}, nil
}

// Name returns the key's name.
func (k *p256) Name() string { return k.name }

// KeyHash returns the key id.
func (k *p256) KeyHash() uint32 { return k.hash }

// Verify reports whether sig is the key's signature of msg.
func (k *p256) Verify(msg, sig []byte) bool {
	digest := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(k.pub, digest[:], sig)
}

// String returns the verifier key that [ParseVerifier] reads.
func (k *p256) String() string {
	return formatKey(k.name, k.hash, append([]byte{typeECDSA}, k.spki...))
}

// p256Signer adds the signing half, which may live in a token.
type p256Signer struct {
	*p256
	sign func(digest []byte) ([]byte, error)
}

// NewP256Signer returns a signer under name whose signatures come from sign: given the 32-byte
// SHA-256 digest of the text it returns an ECDSA signature in ASN.1 DER. Every signature is
// checked against pub before it leaves. It returns [ErrKey] as [NewP256Verifier] does.
func NewP256Signer(name string, pub *ecdsa.PublicKey, sign func(digest []byte) ([]byte, error)) (Signer, error) {
	k, err := newP256(name, pub)
	if err != nil {
		return nil, err
	}
	return &p256Signer{p256: k, sign: sign}, nil
}

// Sign signs msg and checks the result.
func (s *p256Signer) Sign(msg []byte) ([]byte, error) {
	digest := sha256.Sum256(msg)
	sig, err := s.sign(digest[:])
	if err != nil {
		return nil, err
	}
	if !s.Verify(msg, sig) {
		return nil, fmt.Errorf("%w: signature of %s does not verify", ErrSignature, s.name)
	}
	return sig, nil
}

// FormatP256 returns the verifier key of pub as one line, "name+hash+base64", which
// [ParseVerifier] reads and an operator can keep.
func FormatP256(name string, pub *ecdsa.PublicKey) (string, error) {
	k, err := newP256(name, pub)
	if err != nil {
		return "", err
	}
	return k.String(), nil
}

func formatKey(name string, hash uint32, key []byte) string {
	return fmt.Sprintf("%s+%08x+%s", name, hash, base64.StdEncoding.EncodeToString(key))
}

// ParseVerifier reads a verifier key "name+hash+base64(type ‖ public key)": type 0x01 with the
// 32 bytes of an Ed25519 key (the form that golang.org/x/mod/sumdb/note fixed), type 0x02 with
// a P-256 key in SPKI form. Its errors wrap [ErrKey].
func ParseVerifier(s string) (Verifier, error) {
	parts := strings.SplitN(s, "+", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: want name+hash+key", ErrKey)
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("%w: bad base64", ErrKey)
	}
	switch key[0] {
	case typeEd25519:
		v, err := note.NewVerifier(s)
		if err != nil || len(key) != 1+ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: bad Ed25519 key", ErrKey)
		}
		return v, nil
	case typeECDSA:
		return parseP256(s, parts[0], key[1:])
	}
	return nil, fmt.Errorf("%w: type %d", ErrKey, key[0])
}

func parseP256(s, name string, spki []byte) (Verifier, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	point, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an ECDSA key", ErrKey)
	}
	k, err := newP256(name, point)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(k.spki, spki) || k.String() != s {
		return nil, fmt.Errorf("%w: not in canonical form", ErrKey)
	}
	return k, nil
}
