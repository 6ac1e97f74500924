package domain

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Numbers and sizes of FORMAT.md, in bytes.
const (
	slotFormat = 1
	typeToken  = 1 // 2 passphrase and 3 recovery are taken

	slotHeadSize = 1 + 1 + 16 + 16 + 4 + 32 + 2
	wrappedSize  = 12 + keySize + 16 // IV ‖ ciphertext ‖ tag, as cipher.NewGCMWithRandomNonce gives them
)

// Reasons why a slot row is refused. Without the root nobody can tell an altered slot from a
// foreign one, so they are one reason.
var (
	errSlotForm    = damage("not a slot of format 1")
	errSlotName    = damage("slot id and name differ")
	errSlotSeal    = damage("does not open: the slot was altered, or the token's root is another")
	errSlotVersion = damage("holds another version of the domain key than the slot table says")
	errRoot        = damage("root is not a PRF key")
)

// slotID is the random id of a slot; it is the row's name too, so that a row moved to another name
// shows.
type slotID [16]byte

// slot is a token slot, decoded. Its slices belong to it alone.
type slot struct {
	id        slotID
	appliance [16]byte
	version   uint32 // of the domain key
	salt      [32]byte
	root      rootRef
	wrapped   [wrappedSize]byte
}

// slotName returns the name of a slot's row.
func slotName(id slotID) keystore.Name {
	return keystore.MakeName(keystore.SpaceSlot, string(id[:]))
}

// head returns the bytes of the row before the IV. All of them are additional data: id, type,
// parameters, version and appliance cannot be changed without the tag failing.
func (s *slot) head() []byte {
	b := append(make([]byte, 0, slotHeadSize+s.root.size()+wrappedSize), slotFormat, typeToken)
	b = append(b, s.id[:]...)
	b = append(b, s.appliance[:]...)
	b = binary.BigEndian.AppendUint32(b, s.version)
	b = append(b, s.salt[:]...)
	return s.root.append(b)
}

// encode returns the row. One slot has one encoding.
func (s *slot) encode() []byte { return append(s.head(), s.wrapped[:]...) }

// parseSlot decodes the row of the slot with the given name. It accepts exactly what encode writes,
// so the head that is computed again when the tag is checked is the head that was stored. Every
// length is checked before it is used.
func parseSlot(name keystore.Name, row []byte) (*slot, error) {
	if len(row) < slotHeadSize+wrappedSize || row[0] != slotFormat || row[1] != typeToken {
		return nil, errSlotForm
	}
	s := &slot{id: slotID(row[2:]), appliance: [16]byte(row[18:]), version: binary.BigEndian.Uint32(row[34:]), salt: [32]byte(row[38:])}
	var ok bool
	if s.root, ok = parseRoot(row[slotHeadSize-2 : len(row)-wrappedSize]); !ok || s.version < 1 {
		return nil, errSlotForm
	}
	copy(s.wrapped[:], row[len(row)-wrappedSize:])
	if slotName(s.id) != name {
		return nil, errSlotName
	}
	return s, nil
}

// newSlot makes a root in the token and a slot for version of the domain key that names this root
// and wraps nothing yet. The caller closes the root.
func (k *Keyring) newSlot(ctx context.Context, version uint32) (*slot, hsm.Key, error) {
	root, blob, err := k.token.Generate(ctx, hsm.PRFSHA256)
	if err != nil {
		return nil, nil, fmt.Errorf("make root: %w", err)
	}
	s, err := k.emptySlot(version, blob)
	if err != nil {
		return nil, nil, errors.Join(err, root.Close())
	}
	return s, root, nil
}

// emptySlot returns a slot for version that names a root by its blob, or by its plan.
func (k *Keyring) emptySlot(version uint32, blob []byte) (*slot, error) {
	s := &slot{appliance: k.appliance, version: version}
	if err := s.name(k.token.Describe().Kind, blob); err != nil {
		return nil, err
	}
	_, _ = rand.Read(s.id[:]) // never fails: it ends the program rather than return an error
	_, _ = rand.Read(s.salt[:])
	return s, nil
}

// name has s name a root. What a token says is input like any other: the row must be one that parseSlot takes.
func (s *slot) name(kind string, blob []byte) error {
	s.root = rootRef{kind, blob}
	if !s.root.valid() {
		return fmt.Errorf("make root: token of kind %q gave a blob of %d bytes", kind, len(blob))
	}
	return nil
}

// wrap seals the domain key into s, whose other fields are final. The KEK serves this one seal: its
// salt is drawn with it.
func (s *slot) wrap(ctx context.Context, root hsm.Key, key []byte) error {
	kek, err := s.kek(ctx, root)
	if err != nil {
		return err
	}
	defer kek.Free()
	return withAEAD(kek, func(aead cipher.AEAD) error {
		aead.Seal(s.wrapped[:0], nil, key, s.head())
		return nil
	})
}

// unwrap returns the domain key that s wraps, through the token. It returns hsm.ErrBlob for another
// token's slot, and for one whose root was ended.
func (s *slot) unwrap(ctx context.Context, token hsm.Provider) (*securemem.Buffer, error) {
	root, err := token.Load(ctx, s.root.blob)
	if err != nil {
		return nil, fmt.Errorf("load root: %w", err)
	}
	defer root.Close()
	kek, err := s.kek(ctx, root)
	if err != nil {
		return nil, err
	}
	defer kek.Free()
	key, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	err = withAEAD(kek, func(aead cipher.AEAD) error {
		_, err := aead.Open(key.Bytes()[:0], nil, s.wrapped[:], s.head())
		if err != nil {
			return errSlotSeal
		}
		return nil
	})
	if err != nil {
		key.Free()
		return nil, err
	}
	return key, nil
}

// kek returns the key-encryption key of s: the token's factor, then one KDF over all factors.
func (s *slot) kek(ctx context.Context, root hsm.Key) (*securemem.Buffer, error) {
	// The blob comes from the store: it may name any key of the token, and only a key that can do
	// nothing else is a root.
	prf, ok := root.(hsm.PRF)
	if !ok || root.Spec() != hsm.PRFSHA256 || root.Abilities() != hsm.CanPRF {
		return nil, errRoot
	}
	factor, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	defer factor.Free()
	// The label is in the input, so a root that answered anything else before cannot have given
	// this output.
	salted := append(append(make([]byte, 0, 48), s.id[:]...), s.salt[:]...)
	out, err := prf.PRF(ctx, factor.Bytes()[:0], seal.KDFInput(nil, seal.LabelSlot, salted, 8*keySize))
	if err != nil {
		return nil, fmt.Errorf("ask root: %w", err)
	}
	defer securemem.Wipe(out) // in case the token did not append in place
	if len(out) != keySize {
		return nil, fmt.Errorf("ask root: token returned %d bytes", len(out))
	}
	context := append(append(append(make([]byte, 0, 33), typeToken), s.id[:]...), s.appliance[:]...)
	return derived(out, seal.LabelSlotKEK, context)
}

// derived returns KDF(key, label, context), 32 bytes that the caller frees.
func derived(key []byte, label seal.Label, context []byte) (*securemem.Buffer, error) {
	b, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	seal.KDF(b.Bytes(), key, label, context)
	return b, nil
}

// withAEAD runs f with AES-256-GCM under kek that draws its own IVs (SP 800-38D, section 8.2.2).
// Nothing of it is kept.
func withAEAD(kek *securemem.Buffer, f func(cipher.AEAD) error) (err error) {
	securemem.Do(func() {
		var block cipher.Block
		var aead cipher.AEAD
		if block, err = aes.NewCipher(kek.Bytes()); err != nil {
			return
		}
		if aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return
		}
		err = f(aead)
	})
	return err
}
