package seal

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/keyrack/keyrack/internal/securemem"
)

// Label separates the uses of the KDF. Two bytes, never reused: a label that falls out of use stays in the table.
type Label [2]byte

// String returns the two characters.
func (l Label) String() string { return string(l[:]) }

// The labels of the product, each with the key it is used under, what comes out, and its context.
var (
	LabelMessage    = Label{'m', '1'} // material: prk of one message key; key id 16 ‖ material id 4 ‖ salt 24
	LabelSplit      = Label{'k', '1'} // prk: Ke 32 ‖ Kc 32; empty
	LabelMaterialID = Label{'i', '1'} // material: KeyMaterialId 32; key id 16
	LabelBucket     = Label{'w', '1'} // domain key: key that seals bucket rows; appliance id 16
	LabelRecord     = Label{'r', '1'} // bucket key: prk of one record; appliance id 16 ‖ bucket 2 ‖ number 4 ‖ salt 24
	LabelState      = Label{'s', '1'} // domain key: key of bucket digests and of the state root; appliance id 16
	LabelName       = Label{'n', '1'} // domain key: key of name hashes; appliance id 16
	LabelToken      = Label{'t', '1'} // domain key: key of session and grant tokens; fixed by its first user
	LabelAudit      = Label{'a', '1'} // token key: first MAC key of an audit log's start; nonce 32
	LabelDomainKey  = Label{'d', '1'} // domain key: key that seals the version before it; appliance id 16
	LabelSlotTable  = Label{'l', '1'} // domain key: MAC key of the slot table; appliance id 16
	LabelSlot       = Label{'e', '1'} // token root: the token's factor of a slot's KEK; slot id 16 ‖ salt 32
	LabelSlotKEK    = Label{'e', '2'} // factors of a slot, in order: its KEK; slot type 1 ‖ slot id 16 ‖ appliance id 16
	LabelMarker     = Label{'p', '1'} // domain key: MAC key of page markers 32; appliance id 16
	LabelImport     = Label{'o', '1'} // domain key: key that seals import tokens 32; appliance id 16
	LabelImportPRK  = Label{'o', '2'} // key that seals import tokens: prk of one; salt 24
)

// inputRoom is enough for the KDF input of every label above; a longer context only costs an allocation.
const inputRoom = 128

// KDF fills out, at most 2^29-1 bytes, with keying material derived from key under label and context. It is the
// counter-mode KDF of SP 800-108r1, section 4.1, with HMAC-SHA-256 as PRF and a 32-bit counter before the fixed input
// label ‖ 00 ‖ context ‖ [bits of out]32. It is safe for concurrent use and runs inside securemem.Do; out must not
// overlap key.
func KDF(out, key []byte, label Label, context []byte) {
	securemem.Do(func() {
		var room [inputRoom]byte
		counterMode(out, key, KDFInput(room[:0], label, context, uint32(len(out))*8))
	})
}

// KDFInput appends the input of the KDF's first PRF call, [1]32 ‖ label ‖ 00 ‖ context ‖ [bits]32, to dst. For bits up to
// 256 that call is the whole KDF, so a token that computes HMAC-SHA-256 of this input under key K returns what
// KDF(out, K, label, context) puts into bits/8 bytes. For label m1 it is 55 bytes: with its padding one SHA-256 block.
func KDFInput(dst []byte, label Label, context []byte, bits uint32) []byte {
	dst = binary.BigEndian.AppendUint32(dst, 1)
	dst = append(dst, label[0], label[1], 0)
	dst = append(dst, context...)
	return binary.BigEndian.AppendUint32(dst, bits)
}

// counterMode is SP 800-108r1, section 4.1: block i of out is HMAC(key, [i]32 ‖ fixed input). The first four bytes of
// input are the counter's place.
func counterMode(out, key, input []byte) {
	var block [sha256.Size]byte
	defer securemem.Wipe(block[:])
	for i := uint32(1); len(out) > 0; i++ {
		binary.BigEndian.PutUint32(input, i)
		mac(&block, key, input)
		out = out[copy(out, block[:]):]
	}
}
