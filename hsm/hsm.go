// Package hsm is what keyrack asks of a token: the hardware, or the file that stands for it in development, that makes
// keys which cannot leave it. Read Provider, Key and PRF first; a provider lives in a package below this one and proves
// itself with hsm/hsmtest.
//
// The package decides nothing: who may use a key is access's business, what a root opens is domain's. It has no form of
// a key that could be exported, and no provider logs: it returns errors, its caller logs.
package hsm

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrClosed is returned for a provider or key that was closed, and for the keys of a provider that was.
	ErrClosed = errors.New("hsm: closed")

	// ErrBlob is returned by Load and Destroy for a blob that is damaged, belongs to another token, or names a key that is
	// gone, and by a loaded Key whose key is gone.
	ErrBlob = errors.New("hsm: not a key of this token")

	// ErrSpec is returned by Generate for a spec that the token does not offer.
	ErrSpec = errors.New("hsm: token does not make such keys")

	// ErrInput is returned for an input whose length an ability does not take.
	ErrInput = errors.New("hsm: input has a wrong length")

	// ErrUnknown is returned by Set.Open for a name that is not configured.
	ErrUnknown = errors.New("hsm: no token of that name")
)

// Spec is a kind of key that a token makes. The numbers stand in stored formats and never change.
type Spec uint8

// The specs.
const (
	PRFSHA256 Spec = 1 // 256-bit key for HMAC-SHA-256 (FIPS 198-1); its ability is PRF
	SignP256  Spec = 2 // ECDSA key on P-256 (FIPS 186-5); its ability is Signer
)

// String returns the spec's name.
func (s Spec) String() string {
	switch s {
	case PRFSHA256:
		return "HMAC_SHA_256"
	case SignP256:
		return "ECC_NIST_P256"
	}
	return fmt.Sprintf("spec %d", uint8(s))
}

// Abilities is a set of what a key can do, as its device tells.
type Abilities uint8

// The abilities, each an interface of one method.
const (
	CanPRF  Abilities = 1 << iota // the key is a PRF
	CanSign                       // the key is a Signer
)

// Has reports whether a contains all of b.
func (a Abilities) Has(b Abilities) bool { return a&b == b }

// String returns the names of the abilities, separated by commas.
func (a Abilities) String() string {
	var names []string
	if a.Has(CanPRF) {
		names = append(names, "prf")
	}
	if a.Has(CanSign) {
		names = append(names, "sign")
	}
	return strings.Join(names, ",")
}

// AbilitiesOf returns what k's type can do. It must equal k.Abilities(): a wrapper that forgets a method, or shows one
// that its key cannot serve, differs there, and hsmtest finds it.
func AbilitiesOf(k Key) (a Abilities) {
	if _, ok := k.(PRF); ok {
		a |= CanPRF
	}
	if _, ok := k.(Signer); ok {
		a |= CanSign
	}
	return a
}

// Description says what a token is.
type Description struct {
	Kind        string // package of the provider: soft, tpm2, pkcs11
	Model       string // what the device calls itself
	Serial      string // tells this token from others of its kind; the same at each opening
	Specs       []Spec // what Generate makes
	Development bool   // keys are not protected by hardware: never for production, said at every start
	Warning     string // one sentence for the operator, or empty
}

// Provider is an open token. Its methods are safe for concurrent use. A method whose context is done before it begins
// returns the context's error and has no effect.
type Provider interface {
	// Describe returns what the token is. It asks no device, and the result is the caller's.
	Describe() Description

	// Generate makes a key inside the token that cannot leave it. The blob is all that Load needs to find the key again,
	// is no secret, and is the caller's to keep: for a token that stores no keys it is the only copy of the wrapped key.
	// It returns ErrSpec or ErrClosed, or what the device said.
	Generate(ctx context.Context, spec Spec) (key Key, blob []byte, err error)

	// Load returns the key of a blob that Generate of this token once returned, also in an earlier process. It returns
	// ErrBlob or ErrClosed, or what the device said. The caller still owns blob.
	Load(ctx context.Context, blob []byte) (Key, error)

	// Destroy ends the key of a blob for ever, as C_DestroyObject does (PKCS#11 3.1, section 5.7.3): when it returns nil,
	// no copy of the blob is one of a key, in this process or a later one. Keys loaded from it return ErrBlob or ErrClosed.
	// It returns ErrBlob, also for a key that was destroyed before, or ErrClosed, or what the device said; what the device
	// said leaves open whether the key is gone, and calling again settles it.
	Destroy(ctx context.Context, blob []byte) error

	// Random fills p from the token's generator. It returns ErrClosed, or what the device said.
	Random(ctx context.Context, p []byte) error

	// Close ends the use of the token and of all its keys. Only the first call has an effect.
	Close() error
}

// Planner is what a Provider is besides whose keys stay in the token or take room there: it names a key before it makes it. Who keeps
// the name durably first can end also a key whose making was cut off.
type Planner interface {
	// Plan names a key that is to be made, and makes nothing. The plan is no secret, and a blob that Destroy takes: it returns nil or
	// ErrBlob where there is no such key. Load refuses it. It returns ErrSpec or ErrClosed, or what the device said.
	Plan(ctx context.Context, spec Spec) (plan []byte, err error)

	// Make is Generate of what Plan returned for the same spec, once. It returns ErrBlob for what is no plan of this token, or an error
	// for one whose place is taken.
	Make(ctx context.Context, spec Spec, plan []byte) (key Key, blob []byte, err error)
}

// Key is a key inside a token. What it can do are the one-method interfaces PRF and Signer; a type implements exactly
// those that its key serves. All methods are safe for concurrent use.
type Key interface {
	// Spec returns what kind of key it is.
	Spec() Spec

	// Public returns the public half, an *ecdsa.PublicKey for SignP256, or nil for a secret key. It is shared: read only.
	Public() crypto.PublicKey

	// Abilities returns what the device lets the key do: CanPRF for PRFSHA256, CanSign for SignP256.
	Abilities() Abilities

	// Close ends the use of this Key, not the key in the token. Uses under way finish; only the first call has an effect.
	Close() error
}

// MaxPRFInput is the longest input of a PRF in bytes: TPM 2.0 takes 1024 in one TPM2_HMAC (Part 2, MAX_DIGEST_BUFFER).
const MaxPRFInput = 1024

// PRF is the ability of PRFSHA256 keys.
type PRF interface {
	// PRF appends HMAC-SHA-256(key, input), 32 bytes, to dst, in place where dst has the capacity: give locked memory
	// for a secret. The input has 1 to MaxPRFInput bytes. It returns ErrInput or ErrClosed, or what the device said.
	PRF(ctx context.Context, dst, input []byte) ([]byte, error)
}

// Signer is the ability of SignP256 keys.
type Signer interface {
	// SignDigest signs a SHA-256 digest, 32 bytes, with ECDSA (FIPS 186-5, section 6.4). The signature is the ASN.1 DER of
	// RFC 3279, section 2.2.3, and was verified before it is returned. It returns ErrInput or ErrClosed, or what the
	// device said.
	SignDigest(ctx context.Context, digest []byte) ([]byte, error)
}
