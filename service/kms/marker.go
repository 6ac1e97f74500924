package kms

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/seal"
)

// Markers of pages, FORMAT.md "Markers".
const (
	markerFormat = 1
	markerMAC    = 16 // bytes
)

// markerText is one spelling of bytes: no padding, and no bits left over.
var markerText = base64.RawURLEncoding.Strict()

// marker returns what a caller sends to get the page behind last: the name of
// the last row shown, without what all rows of the list have in common. filter is
// what the caller has narrowed the list to.
func (s *Service) marker(c *access.Call, filter, last string) string {
	b := append([]byte{markerFormat}, last...)
	return markerText.EncodeToString(append(b, s.markerMAC(c, filter, last)...))
}

// after returns the name behind which a page begins: "" for the first one.
// Everything but what marker gave the same account for the same operation and
// filter is InvalidMarkerException.
func (s *Service) after(c *access.Call, filter, marker string) (last string, err error) {
	if marker == "" {
		return "", nil
	}
	b, err := markerText.DecodeString(marker)
	if err != nil || len(b) <= 1+markerMAC || b[0] != markerFormat {
		return "", errInvalidMarker
	}
	last = string(b[1 : len(b)-markerMAC])
	if subtle.ConstantTimeCompare(s.markerMAC(c, filter, last), b[len(b)-markerMAC:]) != 1 {
		return "", errInvalidMarker
	}
	return last, nil
}

var errInvalidMarker = &api.Error{
	Kind:    api.KindInvalidMarker,
	Message: "the marker is not one that this list gave: send NextMarker of the page before, with the same KeyId, or none to begin anew",
}

// markerMAC binds a position to one list of one account.
func (s *Service) markerMAC(c *access.Call, filter, last string) []byte {
	account := c.Account()
	b := binary.BigEndian.AppendUint16([]byte{markerFormat}, c.Op().Number)
	b = append(b, account[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(filter)))
	b = append(append(b, filter...), last...)
	return seal.MAC(nil, s.markers[:], b)[:markerMAC]
}
