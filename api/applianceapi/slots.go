package applianceapi

import "github.com/keyrack/keyrack/api"

// ListSlotsRequest asks for the slots, the ways to the domain key. It has no members.
type ListSlotsRequest struct{}

// ListSlotsResponse holds the slots in the order of their ids. While the appliance is
// locked they are what its store says, which nobody has proved: Authentic is false.
type ListSlotsResponse struct {
	Slots     []Slot `n:"1"`
	Authentic bool   `n:"2" rule:"always"`
}

// Slot is one way to the domain key.
type Slot struct {
	SlotId      string   `n:"1"` // UUID form, random
	Type        SlotType `n:"2"`
	TokenKind   string   `n:"3"`               // soft, tpm2 or pkcs11
	TokenSerial string   `n:"4"`               // of the token that has its root; absent where that is not the appliance's own
	Version     int64    `n:"5"`               // of the domain key that it wraps
	InToken     bool     `n:"6" rule:"always"` // its root is in the appliance's token
	Open        bool     `n:"7" rule:"always"` // the running process has the domain key from it
}

// SlotType is what opens a slot.
type SlotType uint8

// The types, numbered as they are stored.
const (
	SlotToken SlotType = 1
)

var slotTypes = api.Names{"TOKEN"}

// Names returns the closed list.
func (SlotType) Names() api.Names { return slotTypes }

// String returns the type's name.
func (t SlotType) String() string { return slotTypes.Name(uint8(t)) }
