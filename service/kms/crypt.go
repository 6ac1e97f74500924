package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/seal"
)

// errInvalidCiphertext is everything that can be wrong with a ciphertext.
var errInvalidCiphertext = &api.Error{
	Kind:    api.KindInvalidCiphertext,
	Message: "the ciphertext is damaged, or the encryption context is not the one it was made with",
}

// errInvalidRSACiphertext is everything that can be wrong with a ciphertext of an RSA key,
// which has no encryption context. It does not say what: a padding must not be told from
// another mistake.
var errInvalidRSACiphertext = &api.Error{
	Kind:    api.KindInvalidCiphertext,
	Message: "the ciphertext is damaged, or it was not made for this RSA key by this algorithm",
}

// errNoSuchKey is the answer for a ciphertext whose key does not exist and for
// one whose key the caller may not use.
var errNoSuchKey = &api.Error{
	Kind:    api.KindAccessDenied,
	Message: "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.",
}

// errIncorrectKey is AWS's text for a ciphertext of another key than the named one.
var errIncorrectKey = &api.Error{
	Kind:    api.KindIncorrectKey,
	Message: "The key ID in the request does not identify a CMK that can perform this operation.",
}

// keyOf returns the key to decrypt with, admitted for op's action: the one that
// ref names, which must be the ciphertext's own, or the one that the ciphertext
// names. ignored says that there need be no ciphertext. Those of asymmetric algorithms
// may look like anything: they name no key, and ref does.
func (s *Service) keyOf(c *access.Call, op *api.Op, ref *api.KeyRef, a kmsapi.EncryptionAlgorithm, blob []byte, ignored bool) (*key, error) {
	if a != kmsapi.SymmetricDefault {
		return s.admitted(c, op, ref)
	}
	h, ok := seal.ParseMessage(blob)
	if !ok && !ignored {
		return nil, errInvalidCiphertext
	}
	if ref.Form == api.RefAbsent {
		return s.keyNamedBy(c, op, &h)
	}
	k, err := s.admitted(c, op, ref)
	if err != nil {
		return nil, err
	}
	if ok && h.KeyID != k.id && !k.asymmetric() {
		return nil, errIncorrectKey
	}
	return k, nil
}

func (s *Service) keyNamedBy(c *access.Call, op *api.Op, h *seal.MessageHeader) (*key, error) {
	k, err := s.key(c, h.KeyID)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, errNoSuchKey
	}
	if err := c.AdmitAs(op, k); err != nil {
		return nil, errNoSuchKey
	}
	return k, nil
}

// seal encrypts under the key's current material into the call's own memory.
func (s *Service) seal(c *access.Call, k *key, plaintext, encryptionContext []byte) ([]byte, error) {
	bound := api.EncryptionContext(encryptionContext).Canonical()
	dst, scratch := c.Bytes(seal.Overhead + len(plaintext))[:0], c.Bytes(seal.Scratch + len(bound))[:0]
	for range 3 { // a full message key is replaced once; racing callers may fill that one too
		mk, err := k.current.messageKey(k.id, c.Now())
		if err != nil {
			return nil, s.damagedMaterial(k, err)
		}
		blob, err := mk.Seal(dst, scratch, plaintext, bound)
		if err == nil {
			return blob, nil
		}
		k.current.retire(mk)
	}
	return nil, api.Errorf(api.KindThrottling, "the key is in too heavy use; try again")
}

// open decrypts into the call's own memory. There is one error.
func (s *Service) open(c *access.Call, k *key, blob, encryptionContext []byte) ([]byte, *material, error) {
	h, ok := seal.ParseMessage(blob)
	if !ok {
		return nil, nil, errInvalidCiphertext
	}
	m, err := s.material(c, k, h.MaterialID)
	if err != nil {
		return nil, nil, err
	}
	bound := api.EncryptionContext(encryptionContext).Canonical()
	dst, scratch := c.Bytes(len(blob) - seal.Overhead)[:0], c.Bytes(seal.Scratch + len(bound))[:0]
	mk, fresh, err := m.openingKey(h, c.Now())
	if err != nil {
		return nil, nil, api.Internal(err)
	}
	plaintext, err := mk.Open(dst, scratch, blob, bound)
	if err != nil {
		if fresh && !m.intact(k.id) { // not the ciphertext's fault: its owner must not believe it lost
			return nil, nil, s.damagedMaterial(k, errMaterialChanged)
		}
		return nil, nil, errInvalidCiphertext
	}
	if fresh {
		m.kept.add(h.Salt, mk, c.Now())
	}
	return plaintext, m, nil
}

// damagedMaterial answers for material that is not what was stored: better no
// ciphertext than one that nobody can decrypt. The snapshot is dropped, so the
// next call reads the sealed copy.
func (s *Service) damagedMaterial(k *key, err error) error {
	s.damaged.Add(1)
	s.keys.forget(k)
	s.packed.drop(k.id, 0)
	return &api.Error{Kind: api.KindKeyUnavailable, Reason: "material-damaged", Err: err,
		Message: "the key's material in memory has changed and was dropped; try again"}
}
