package domain

import (
	"encoding/binary"

	"github.com/keyrack/keyrack/keystore"
)

// Numbers and sizes of FORMAT.md, in bytes.
const (
	retiredFormat   = 1
	retiredHeadSize = 1 + 16 + 16
	maxParameters   = 4096
	maxKind         = 32
)

// Reasons why a row of a retired root is refused.
var (
	errRetiredForm  = damage("not a retired root of format 1")
	errRetiredName  = damage("slot id and name differ")
	errRetiredInUse = damage("names the root of a slot in use")
)

// rootRef is by what a token finds a root again: the parameters of a token slot, and of the row
// that is left when the slot is gone.
type rootRef struct {
	kind string // of the token
	blob []byte // no secret
}

// size returns the length of the parameters in bytes, without their length field.
func (r rootRef) size() int { return 1 + len(r.kind) + len(r.blob) }

// valid reports whether parseRoot would take it.
func (r rootRef) valid() bool {
	return len(r.kind) >= 1 && len(r.kind) <= maxKind && len(r.blob) >= 1 && r.size() <= maxParameters
}

// append appends length 2 ‖ length of the kind 1 ‖ kind ‖ blob.
func (r rootRef) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(r.size()))
	b = append(b, byte(len(r.kind)))
	b = append(b, r.kind...)
	return append(b, r.blob...)
}

// parseRoot decodes exactly what append wrote.
func parseRoot(b []byte) (r rootRef, ok bool) {
	if len(b) < 3 || len(b) > 2+maxParameters || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return rootRef{}, false
	}
	end := 3 + int(b[2])
	if len(b) <= end {
		return rootRef{}, false
	}
	r = rootRef{string(b[3:end]), append([]byte(nil), b[end:]...)}
	return r, r.valid()
}

// retiredRoot is a root that opens no slot of the present table, or never did, and that the token
// must still destroy.
type retiredRoot struct {
	slot      slotID // whose root it was
	appliance [16]byte
	root      rootRef
}

// retire returns the root of s as one to be destroyed.
func (s *slot) retire() *retiredRoot { return &retiredRoot{s.id, s.appliance, s.root} }

// retiredName returns the name of a retired root's row.
func retiredName(id slotID) keystore.Name {
	return keystore.MakeName(keystore.SpaceRetired, string(id[:]))
}

// encode returns the row. What makes it authentic is its digest in the table: nobody else can have
// a key of the token destroyed.
func (r *retiredRoot) encode() []byte {
	b := append(make([]byte, 0, retiredHeadSize+2+r.root.size()), retiredFormat)
	b = append(b, r.slot[:]...)
	b = append(b, r.appliance[:]...)
	return r.root.append(b)
}

// parseRetired decodes the row of the retired root with the given name. It accepts exactly what
// encode writes.
func parseRetired(name keystore.Name, row []byte) (*retiredRoot, error) {
	if len(row) < retiredHeadSize || row[0] != retiredFormat {
		return nil, errRetiredForm
	}
	root, ok := parseRoot(row[retiredHeadSize:])
	if !ok {
		return nil, errRetiredForm
	}
	r := &retiredRoot{slotID(row[1:]), [16]byte(row[17:]), root}
	if retiredName(r.slot) != name {
		return nil, errRetiredName
	}
	return r, nil
}
