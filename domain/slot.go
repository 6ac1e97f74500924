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

	slotHeadSize  = 1 + 1 + 16 + 16 + 4 + 32 + 2
	wrappedSize   = 12 + keySize + 16 // IV ‖ ciphertext ‖ tag, as cipher.NewGCMWithRandomNonce gives them
	maxParameters = 4096
	maxKind       = 32
)

// Reasons why a slot row is refused. Without the root nobody can tell an altered slot from a foreign one, so they are one reason.
var (
	errSlotForm = errors.New("not a slot of format 1")
	errSlotName = errors.New("slot id and name differ")
	errSlotSeal = errors.New("does not open: the slot was altered, or the token's root is another")
	errRoot     = errors.New("root is not a PRF key")
)

// slotID is the random id of a slot; it is the row's name too, so that a row moved to another name shows.
type slotID [16]byte

// slot is a token slot, decoded. Its slices belong to it alone.
type slot struct {
	id        slotID
	appliance [16]byte
	salt      [32]byte
	kind      string // of the token
	blob      []byte // by which the token finds the root
	wrapped   [wrappedSize]byte
}

// slotName returns the name of a slot's row.
func slotName(id slotID) keystore.Name {
	return keystore.MakeName(keystore.SpaceSlot, string(id[:]))
}

// head returns the bytes of the row before the IV. All of them are additional data: id, type, parameters, version and appliance cannot
// be changed without the tag failing.
func (s *slot) head() []byte {
	b := append(make([]byte, 0, slotHeadSize+1+maxKind+len(s.blob)+wrappedSize), slotFormat, typeToken)
	b = append(b, s.id[:]...)
	b = append(b, s.appliance[:]...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = append(b, s.salt[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(1+len(s.kind)+len(s.blob)))
	b = append(b, byte(len(s.kind)))
	b = append(b, s.kind...)
	return append(b, s.blob...)
}

// encode returns the row. One slot has one encoding.
func (s *slot) encode() []byte { return append(s.head(), s.wrapped[:]...) }

// parseSlot decodes the row of the slot with the given name. It accepts exactly what encode writes, so the head that is computed again
// when the tag is checked is the head that was stored. Every length is checked before it is used.
func parseSlot(name keystore.Name, row []byte) (*slot, error) {
	if len(row) < slotHeadSize+wrappedSize || row[0] != slotFormat || row[1] != typeToken {
		return nil, errSlotForm
	}
	parameters := row[slotHeadSize : len(row)-wrappedSize]
	if len(parameters) > maxParameters || int(binary.BigEndian.Uint16(row[70:])) != len(parameters) ||
		binary.BigEndian.Uint32(row[34:]) != version {
		return nil, errSlotForm
	}
	s := &slot{id: slotID(row[2:]), appliance: [16]byte(row[18:]), salt: [32]byte(row[38:])}
	copy(s.wrapped[:], row[len(row)-wrappedSize:])
	var ok bool
	if s.kind, s.blob, ok = parseParameters(parameters); !ok {
		return nil, errSlotForm
	}
	if slotName(s.id) != name {
		return nil, errSlotName
	}
	return s, nil
}

// parseParameters splits kind and blob.
func parseParameters(p []byte) (kind string, blob []byte, ok bool) {
	if len(p) < 1 || p[0] < 1 || p[0] > maxKind || len(p) <= 1+int(p[0]) {
		return "", nil, false
	}
	end := 1 + int(p[0])
	return string(p[1:end]), append([]byte(nil), p[end:]...), true
}

// newSlot makes a root in the token and a slot that wraps the domain key under it.
func (k *Keyring) newSlot(ctx context.Context) (*slot, error) {
	root, blob, err := k.token.Generate(ctx, hsm.PRFSHA256)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	defer root.Close()
	s := &slot{appliance: k.appliance, kind: k.token.Describe().Kind, blob: blob}
	// What a token says is input like any other: the row must be one that parseSlot takes.
	if kind := len(s.kind); kind < 1 || kind > maxKind || len(blob) < 1 || 1+kind+len(blob) > maxParameters {
		return nil, fmt.Errorf("make root: token of kind %q gave a blob of %d bytes", s.kind, len(blob))
	}
	_, _ = rand.Read(s.id[:]) // never fails: it ends the program rather than return an error
	_, _ = rand.Read(s.salt[:])
	if err := s.wrap(ctx, root, k.key.Bytes()); err != nil {
		return nil, err
	}
	return s, nil
}

// wrap seals the domain key into s, whose other fields are final. The KEK serves this one seal: its salt is drawn with it.
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

// unwrap returns the domain key that s wraps, through the token. It returns hsm.ErrBlob for another token's slot.
func (s *slot) unwrap(ctx context.Context, token hsm.Provider) (*securemem.Buffer, error) {
	root, err := token.Load(ctx, s.blob)
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
	// The blob comes from the store: it may name any key of the token, and only a key that can do nothing else is a root.
	prf, ok := root.(hsm.PRF)
	if !ok || root.Spec() != hsm.PRFSHA256 || root.Abilities() != hsm.CanPRF {
		return nil, errRoot
	}
	factor, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	defer factor.Free()
	// The label is in the input, so a root that answered anything else before cannot have given this output.
	salted := append(append(make([]byte, 0, 48), s.id[:]...), s.salt[:]...)
	out, err := prf.PRF(ctx, factor.Bytes()[:0], seal.KDFInput(nil, seal.LabelSlot, salted, 8*keySize))
	if err != nil {
		return nil, fmt.Errorf("ask root: %w", err)
	}
	defer securemem.Wipe(out) // in case the token did not append in place
	if len(out) != keySize {
		return nil, fmt.Errorf("ask root: token returned %d bytes", len(out))
	}
	kek, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	context := append(append(append(make([]byte, 0, 33), typeToken), s.id[:]...), s.appliance[:]...)
	seal.KDF(kek.Bytes(), out, seal.LabelSlotKEK, context)
	return kek, nil
}

// withAEAD runs f with AES-256-GCM under kek that draws its own IVs (SP 800-38D, section 8.2.2). Nothing of it is kept.
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
