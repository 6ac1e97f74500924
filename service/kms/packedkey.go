package kms

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// What is kept of a key, integers big-endian:
//
//	spec 1 ‖ usage 4 bits ‖ origin 4 bits ‖ state 4 bits ‖ manager 3 bits ‖ rotated 1 bit ‖ account 5 ‖
//	created µs 8 ‖ aliases 2 ‖ [days between rotations 2 ‖ the next one µs 8] ‖ material id 4 ‖ secret ‖ description
//
// The secret is as long as the spec says. Of its material's id the first bytes are kept, which say
// whether the secret suffered on the way here. It is never stored: no other process reads it.
const (
	packedKeyHead     = 1 + 1 + 1 + 5 + 8 + 2
	packedKeyRotation = 2 + 8
	packedKeyRotated  = 1
)

// packable reports whether a key has no more to it than is packed: one that has rows besides its own and
// its material's, or that is about to be destroyed, is read from the store each time.
func (r *keyRow) packable() bool {
	return r.Tags == 0 && r.Materials == 0 && r.Deletion == 0 && r.Doom == nil && r.Expiry == 0 &&
		r.Format == keyFormat && r.Usage < 16 && r.Origin < 16 && r.State < 16 && r.Manager < 8
}

// appendPacked appends what is kept of a row, but for the description.
func (r *keyRow) appendPacked(b []byte) []byte {
	last := byte(r.State)<<4 | byte(r.Manager)<<1
	if r.RotateDays > 0 {
		last |= packedKeyRotated
	}
	account, _ := strconv.ParseUint(r.Account, 10, 40) // 12 digits
	b = append(b, byte(r.Spec), byte(r.Usage)<<4|byte(r.Origin), last, byte(account>>32))
	b = binary.BigEndian.AppendUint32(b, uint32(account))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Created))
	b = binary.BigEndian.AppendUint16(b, r.Aliases)
	if r.RotateDays > 0 {
		b = binary.BigEndian.AppendUint16(b, r.RotateDays)
		b = binary.BigEndian.AppendUint64(b, uint64(r.RotateNext))
	}
	return b
}

// cutPacked reads what appendPacked wrote, and returns the account and what stands behind it.
func (r *keyRow) cutPacked(b []byte) (account api.AccountID, rest []byte) {
	number := uint64(b[3])<<32 | uint64(binary.BigEndian.Uint32(b[4:]))
	for i := len(account) - 1; i >= 0; i-- {
		account[i] = byte('0' + number%10)
		number /= 10
	}
	*r = keyRow{
		Format: keyFormat, Account: account.String(), Spec: kmsapi.KeySpec(b[0]), Usage: kmsapi.KeyUsage(b[1] >> 4), Origin: kmsapi.KeyOrigin(b[1] & 15),
		State: kmsapi.KeyState(b[2] >> 4), Manager: kmsapi.KeyManager(b[2] >> 1 & 7),
		Created: api.Time(binary.BigEndian.Uint64(b[8:])), Aliases: binary.BigEndian.Uint16(b[16:]),
	}
	rest = b[packedKeyHead:]
	if b[2]&packedKeyRotated != 0 {
		r.RotateDays, r.RotateNext = binary.BigEndian.Uint16(rest), api.Time(binary.BigEndian.Uint64(rest[2:]))
		rest = rest[packedKeyRotation:]
	}
	return account, rest
}

// pack keeps a key that was read at revision seen in its small form, if it has one and there is
// room for its description.
func (s *Service) pack(k *key, seen keystore.Revision) {
	if k.current == nil || !k.row.packable() {
		return
	}
	s.packed.put(k.id, seen, func(room []byte) int {
		short, secret := k.current.short(), k.current.secret.Bytes()
		size := packedKeyHead + len(short) + len(secret) + len(k.row.Description)
		if k.row.RotateDays > 0 {
			size += packedKeyRotation
		}
		if size > len(room) {
			return 0
		}
		b := append(append(k.row.appendPacked(room[:0]), short[:]...), secret...)
		return len(append(b, k.row.Description...))
	})
}

// unpack makes the snapshot of a key from what pack kept, or returns errMaterialChanged.
func (s *Service) unpack(id api.KeyID, plaintext []byte) (*key, error) {
	var row keyRow
	account, rest := row.cutPacked(plaintext)
	row.Multi = id.Multi()
	short, rest := rest[:4], rest[4:]
	size := specs[row.Spec].secret
	row.Description = string(rest[size:])
	secret, err := securemem.From(rest[:size])
	if err != nil {
		return nil, err
	}
	k := s.newKey(id, row, account)
	if k.current, err = newMaterial(id, short, secret, &s.keys.account(account).left); err != nil {
		return nil, err
	}
	k.row.Current = k.current.id[:]
	return k, nil
}

// unpacked returns the snapshot of a key that is packed, or nil: also for one whose secret is not what
// was read, which the store has, too.
func (s *Service) unpacked(id api.KeyID) (k *key, err error) {
	seen, ok := s.packed.open(id, func(plaintext []byte) {
		k, err = s.unpack(id, plaintext)
	})
	switch {
	case !ok:
		return nil, nil
	case errors.Is(err, securemem.ErrFull):
		return nil, s.noMemory(err)
	case errors.Is(err, errMaterialChanged):
		s.damaged.Add(1)
		s.packed.drop(id, 0)
		return nil, nil
	case err != nil:
		return nil, api.Internal(fmt.Errorf("unpack key %s: %w", id, err))
	}
	s.keys.put(k, seen)
	return k, nil
}
