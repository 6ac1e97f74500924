package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"slices"

	"github.com/keyrack/keyrack/internal/securemem"
)

const (
	recordFormat     = 2
	recordHeaderSize = 1 + 4 + Salt
	recordPrefixSize = recordHeaderSize + commitmentSize // what stands before the IV
)

// Place says where a record lives. A record opens only at the place it was sealed for.
type Place struct {
	Appliance [16]byte
	Bucket    uint16
	Number    uint32 // number of the bucket's key; for a bucket row the version of the domain key
}

// Record is what the bucket index and the choice of a key need of a sealed record.
type Record struct {
	Number uint32   // number of the key that it was sealed with
	Mark   [32]byte // first 16 bytes of the commitment ‖ GCM tag: differs between any two records ever sealed
}

// ParseRecord returns what record says about itself and whether it has format 2 and at least 89 bytes. It checks nothing
// else. The result shares no memory with record.
func ParseRecord(record []byte) (r Record, ok bool) {
	if len(record) < RecordOverhead || record[0] != recordFormat {
		return Record{}, false
	}
	r.Number = binary.BigEndian.Uint32(record[1:])
	copy(r.Mark[:16], record[recordHeaderSize:])
	copy(r.Mark[16:], record[len(record)-tagSize:])
	return r, true
}

// SealRecord appends the record for plaintext, len(plaintext)+89 bytes, to dst. It is sealed with key, 32 bytes that the
// caller owns, for place and the full name, under a salt of its own, so no number of records needs to be counted. dst
// must not overlap plaintext. It returns ErrKeySize. It is safe for concurrent use.
func SealRecord(dst, key []byte, place Place, name, plaintext []byte) ([]byte, error) {
	dst = slices.Grow(dst, RecordOverhead+len(plaintext))
	at := len(dst)
	dst = append(dst, recordFormat)
	dst = binary.BigEndian.AppendUint32(dst, place.Number)
	dst = dst[:at+recordHeaderSize]
	_, _ = rand.Read(dst[at+recordHeaderSize-Salt:]) // never fails: it ends the program rather than return an error
	var err error
	securemem.Do(func() {
		var k recordKey
		if k, err = newRecordKey(key, place, dst[at:], name); err == nil {
			dst = append(dst, k.commitment()...)
			dst = k.aead.Seal(dst, nil, plaintext, k.aad)
		}
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}

// OpenRecord appends the plaintext of record to dst, which must not overlap it. It returns ErrKeySize, and ErrOpen for
// every fault of the record, another key, place or name among them. The commitment is compared in constant time before
// GCM runs. Nothing is allocated for the plaintext when dst has room for len(record)-89 more bytes: give locked memory
// for key material. It is safe for concurrent use.
func OpenRecord(dst, key []byte, place Place, name, record []byte) ([]byte, error) {
	r, ok := ParseRecord(record)
	if !ok || r.Number != place.Number {
		return nil, ErrOpen
	}
	var err error
	securemem.Do(func() {
		var k recordKey
		if k, err = newRecordKey(key, place, record[:recordHeaderSize], name); err == nil {
			dst, err = k.open(dst, record)
		}
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}

// recordKey is all that one record needs: its AEAD, and its additional data header ‖ commitment ‖ name.
type recordKey struct {
	aead cipher.AEAD
	aad  []byte
}

// newRecordKey derives the key of the record with the given header, place and name.
func newRecordKey(key []byte, place Place, header, name []byte) (k recordKey, err error) {
	if len(key) != sha256.Size {
		return recordKey{}, ErrKeySize
	}
	var room [16 + 2 + 4 + Salt]byte
	context := append(room[:0], place.Appliance[:]...)
	context = binary.BigEndian.AppendUint16(context, place.Bucket)
	context = append(context, header[1:]...) // number ‖ salt
	var prk [sha256.Size]byte
	var keys [64]byte
	defer securemem.Wipe(prk[:])
	defer securemem.Wipe(keys[:])
	KDF(prk[:], key, LabelRecord, context)
	if k.aead, err = split(&keys, prk[:]); err != nil {
		return recordKey{}, err
	}
	k.aad = append(make([]byte, 0, recordPrefixSize+len(name)), header...)
	k.aad = append(MAC(k.aad, keys[32:], name), name...)
	return k, nil
}

func (k recordKey) commitment() []byte { return k.aad[recordHeaderSize:recordPrefixSize] }

func (k recordKey) open(dst, record []byte) ([]byte, error) {
	if subtle.ConstantTimeCompare(k.commitment(), record[recordHeaderSize:recordPrefixSize]) != 1 {
		return nil, ErrOpen
	}
	dst, err := k.aead.Open(dst, nil, record[recordPrefixSize:], k.aad)
	if err != nil {
		return nil, ErrOpen
	}
	return dst, nil
}
