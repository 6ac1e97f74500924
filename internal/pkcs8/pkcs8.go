// Package pkcs8 reads private keys that were made elsewhere, as PKCS#8 has them (RFC 5208, RFC 5958), into the secrets that
// service/kms keeps (its FORMAT.md, "Material"), and refuses those that are no good. Read [Parse] and [Key].
//
// It is stricter than crypto/x509: DER in its one encoding, nothing behind the end, all that the file says of a key checked
// against the key. It reads no other form (PKCS#1, SEC 1, encrypted PKCS#8, PEM) and writes none. It is for hostile input.
package pkcs8

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/securemem"
)

// MaxSize is the longest file that is read, in bytes: an RSA-4096 key has some 2,400.
const MaxSize = 8192

var (
	// ErrForm is the error for what is no private key in PKCS#8. It says no more, because who sends a wrapped key could
	// learn from it how the unwrapping went.
	ErrForm = errors.New("pkcs8: not a private key in PKCS#8, DER")

	// ErrRefused is wrapped by the errors for a private key that is well-formed and not taken. They say why, in
	// words for its owner, and nothing of the key.
	ErrRefused = errors.New("pkcs8: the key is refused")
)

// Key is a private key that was read.
type Key struct {
	Spec   string // name of its KeySpec, "RSA_2048"
	Secret []byte // as material holds it; the caller's to wipe

	primes *primes // of an RSA key: to be checked
}

// form is how a type of key stands in PKCS#8. parameters are those of its AlgorithmIdentifier, still in DER; secret is the
// content of privateKey, public that of publicKey or nil.
type form struct {
	oid  []byte // content of the OBJECT IDENTIFIER
	read func(parameters, secret, public []byte) (*Key, error)
}

// forms is the table of the algorithms.
var forms = []form{
	{[]byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1}, readRSA}, // rsaEncryption, RFC 8017, appendix A.1
	{[]byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1}, readEC},           // id-ecPublicKey, RFC 5480, section 2.1.1
	{[]byte{0x2b, 0x65, 0x70}, readEd25519},                        // id-Ed25519, RFC 8410, section 3
}

// Parse reads a private key from der, which it neither keeps nor changes: Secret is a copy. Errors are ErrForm, or wrap ErrRefused.
// The primes of an RSA key take tenths of a second to check. Call it outside of securemem.Do: it goes in and out itself,
// so as not to stay there that long.
func Parse(der []byte) (key *Key, err error) {
	if len(der) > MaxSize {
		return nil, ErrForm
	}
	securemem.Do(func() { key, err = parse(der) })
	if err != nil || key.primes == nil {
		return key, err
	}
	if err := key.primes.check(); err != nil {
		return nil, err
	}
	key.primes = nil
	return key, nil
}

// parse reads PrivateKeyInfo, which became OneAsymmetricKey with version 1 (RFC 5958, section 2). Attributes say nothing that a
// key is made of; tokens and Windows write some.
func parse(der []byte) (*Key, error) {
	all := reader{rest: der}
	info := all.in(tagSequence)
	version := info.integer()
	algorithm := info.in(tagSequence)
	oid := algorithm.next(tagOID)
	secret := info.next(tagOctetString)
	if info.has(tagContext0) {
		info.next(tagContext0)
	}
	var public []byte
	if info.has(tagImplicit1) {
		if public = info.bits(tagImplicit1); version.Cmp(one) != 0 {
			return nil, ErrForm
		}
	}
	if !all.end() || !info.end() || algorithm.bad || version.Cmp(one) > 0 {
		return nil, ErrForm
	}
	for _, f := range forms {
		if bytes.Equal(f.oid, oid) {
			return f.read(algorithm.rest, secret, public)
		}
	}
	if bytes.HasPrefix(oid, latticeOID) {
		return readPQ(der)
	}
	return nil, refused("its algorithm is none of RSA, EC, Ed25519, ML-DSA and ML-KEM")
}

// latticeOID is where NIST's signature algorithms and KEMs stand: 2.16.840.1.101.3.4.
var latticeOID = []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04}

// readPQ reads a key of ML-DSA (RFC 9881, section 6) or ML-KEM (RFC 9935, section 6) that has its seed.
func readPQ(der []byte) (*Key, error) {
	set, seed, err := pq.ParsePKCS8(der)
	if errors.Is(err, pq.ErrNoKey) {
		return nil, ErrForm
	}
	if err != nil {
		return nil, refused("%v", err)
	}
	return &Key{Spec: strings.ReplaceAll(set.String(), "-", "_"), Secret: bytes.Clone(seed)}, nil
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}
