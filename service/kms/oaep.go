package kms

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for oaepHashes
	"errors"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
)

// oaepHashes is the table of RSAES-OAEP (RFC 8017, section 7.1): the hash function, also
// of MGF1. The label is empty. SHA-1 is what AWS offers beside SHA-256; OAEP needs no
// collision resistance of it (RFC 8017, appendix B.1).
var oaepHashes = [...]crypto.Hash{
	kmsapi.RSAESOAEPSHA1:   crypto.SHA1,
	kmsapi.RSAESOAEPSHA256: crypto.SHA256,
}

// fits refuses what an asymmetric key cannot encrypt, or decrypt where n is 0: more bytes
// than there is room for beside the padding (RFC 8017, section 7.1.1, step 1b), and an
// encryption context, which would bind nothing. The text for too many bytes is AWS's (localstack's
// recordings, tests/aws/services/kms/test_kms.snapshot.json).
func (k *key) fits(a kmsapi.EncryptionAlgorithm, n int, context api.EncryptionContext) error {
	if a == kmsapi.SymmetricDefault {
		return nil
	}
	if len(context.Canonical()) > 1 {
		return api.Errorf(api.KindValidation, "EncryptionContext is not supported with algorithm %s: it binds nothing to a ciphertext of an asymmetric key.", a)
	}
	if most := specs[k.row.Spec].secret - 2*oaepHashes[a].Size() - 2; n > most { // p ‖ q are as long as the modulus
		return api.Errorf(api.KindValidation, "Algorithm %s and key spec %s cannot encrypt data larger than %d bytes.", a, k.row.Spec, most)
	}
	return nil
}

// encrypt encrypts with an algorithm that the key offers: what Encrypt answers.
func (s *Service) encrypt(c *access.Call, k *key, a kmsapi.EncryptionAlgorithm, plaintext, encryptionContext []byte) ([]byte, error) {
	if a == kmsapi.SymmetricDefault {
		return s.seal(c, k, plaintext, encryptionContext)
	}
	p, err := s.decrypter(c, k)
	if err != nil {
		return nil, err
	}
	blob, err := p.encrypt(oaepHashes[a], plaintext)
	if err != nil {
		return nil, s.damagedMaterial(k, err)
	}
	return blob, nil
}

// decrypt decrypts into the call's own memory and says which material did, for
// symmetric keys.
func (s *Service) decrypt(c *access.Call, k *key, a kmsapi.EncryptionAlgorithm, blob, encryptionContext []byte) (plaintext []byte, material string, err error) {
	if a == kmsapi.SymmetricDefault {
		plaintext, m, err := s.open(c, k, blob, encryptionContext)
		if err != nil {
			return nil, "", err
		}
		return plaintext, m.idText, nil
	}
	p, err := s.decrypter(c, k)
	if err != nil {
		return nil, "", err
	}
	plaintext, err = p.decrypt(c.Bytes(len(blob))[:0], oaepHashes[a], blob)
	if err == nil {
		return plaintext, "", nil
	}
	if !k.current.intact(k.id) || p.try(oaepHashes[a]) != nil { // not the ciphertext's fault: its owner must not believe it lost
		return nil, "", s.damagedMaterial(k, err)
	}
	return nil, "", errInvalidRSACiphertext
}

// decrypter is what the secret of an RSA key that encrypts is expanded to.
type decrypter struct {
	private *rsa.PrivateKey
	public  *rsa.PublicKey // in memory of its own: what flips in the private key's is not in it
	spki    []byte
}

// newDecrypter turns an RSA key that signs into one that decrypts.
func newDecrypter(s *signer) *decrypter {
	return &decrypter{s.private.(*rsa.PrivateKey), s.public.(*rsa.PublicKey), s.spki}
}

func (p *decrypter) publicKey() []byte { return p.spki }

// decrypter returns the expanded key of one of RSA that encrypts.
func (s *Service) decrypter(c *access.Call, k *key) (*decrypter, error) {
	as, err := s.expand(c, k)
	if err != nil {
		return nil, err
	}
	return as.(*decrypter), nil
}

// errFalsePair is the cause when a private key does not belong to its own public key, or
// no longer, or is not what it was.
var errFalsePair = errors.New("a private key does not belong to its own public key")

// encrypt encrypts with the public key, and then sees that it is still the private one's:
// a bit that flipped in it must not make data that nobody can decrypt.
func (p *decrypter) encrypt(h crypto.Hash, plaintext []byte) (blob []byte, err error) {
	securemem.Do(func() { blob, err = rsa.EncryptOAEP(h.New(), rand.Reader, p.public, plaintext, nil) })
	if err == nil && !p.public.Equal(p.private.Public()) {
		err = errFalsePair
	}
	return blob, err
}

// errDecryption is everything that can be wrong with a ciphertext of RSAES-OAEP.
var errDecryption = errors.New("the padding is not that of RSAES-OAEP")

// decrypt appends the plaintext to dst, which has room for it. A ciphertext is as long as
// the modulus (RFC 8017, section 7.1.2, step 1b; crypto/rsa takes shorter ones) and holds
// a byte at least, because Encrypt makes no other.
//
// A computation with CRT that went wrong gives no plaintext: 20 bytes of the padding at
// least are fixed, so that nothing leaves of which the primes could be computed, and
// crypto/rsa itself checks the result for signatures alone
// (crypto/internal/fips140/rsa, DecryptOAEP).
func (p *decrypter) decrypt(dst []byte, h crypto.Hash, blob []byte) ([]byte, error) {
	if len(blob) != p.private.Size() {
		return nil, errDecryption
	}
	var n int
	securemem.Do(func() {
		plaintext, err := rsa.DecryptOAEP(h.New(), nil, p.private, blob, nil)
		if err == nil {
			dst, n = append(dst, plaintext...), len(plaintext)
			clear(plaintext)
		}
	})
	if n == 0 {
		return nil, errDecryption
	}
	return dst, nil
}

// prove encrypts something and decrypts it again.
func (p *decrypter) prove(can algorithms) error { return p.try(oaepHashes[can.encryption[0]]) }

func (p *decrypter) try(h crypto.Hash) error {
	sample := []byte("pairwise consistency")
	blob, err := p.encrypt(h, sample)
	if err != nil {
		return err
	}
	got, err := p.decrypt(make([]byte, 0, len(blob)), h, blob)
	if err != nil || !bytes.Equal(got, sample) {
		return errFalsePair
	}
	return nil
}
