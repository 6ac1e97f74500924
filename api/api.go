// Package api is the product's vocabulary: account and key ids, ARNs and key
// references, the kinds of errors, the limits and defaults, and the machinery
// that turns a struct's tags into a field table.
//
// Read first: [Op] and [OpOf], a row of the table of operations; [Struct], the
// field table that every wire, the validator, the audit log and the command
// line walk over; [Error], what goes wrong. The rows themselves with their
// requests and responses stand in api/kmsapi and its siblings.
//
// Walks of the table: [Struct.DecodeCBOR] and [Struct.AppendCBOR] for the native
// wire, [Struct.DecodeJSON] and [Struct.AppendJSON] for people and AWS's JSON,
// [Struct.DecodeRPC] and [Struct.AppendRPC] for AWS's CBOR, [Struct.AppendAudit]
// for the log, [Field.SetText] for flags. What is wrong with a
// request has the same kind and words whichever way it came.
//
// It does not read sockets or files, decide, store or encrypt anything.
package api

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// AccountID is a tenant: twelve ASCII digits, as in every ARN. The zero value
// is no account. Comparable, so it is a map key.
type AccountID [12]byte

// ParseAccountID parses exactly twelve digits.
func ParseAccountID[T string | []byte](s T) (AccountID, error) {
	var a AccountID
	if len(s) != len(a) {
		return AccountID{}, fmt.Errorf("account id has %d characters, want 12 digits", len(s))
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return AccountID{}, errors.New("account id has a character that is not a digit")
		}
		a[i] = s[i]
	}
	return a, nil
}

// String returns the twelve digits, or "" for no account.
func (a AccountID) String() string {
	if a == (AccountID{}) {
		return ""
	}
	return string(a[:])
}

// KeyID is the 16 bytes of a key's id. Single-Region keys write it as a UUID
// (8-4-4-4-12 lower-case hex digits), multi-Region keys as "mrk-" and 32 digits.
type KeyID [16]byte

// Multi reports whether it is the id of a multi-Region key, which the version of the
// UUID tells (RFC 9562 §4.2): 8, and 4 of all others. So whoever has the id alone can write it.
func (k KeyID) Multi() bool { return k[6]>>4 == 8 }

// String returns the form that the key's id is written in.
func (k KeyID) String() string { return string(k.AppendText(nil, k.Multi())) }

// AppendText appends the id's text, 36 bytes either way: the multi-Region form
// ("mrk-" and 32 hex digits) if multi is set, else the UUID form.
func (k KeyID) AppendText(dst []byte, multi bool) []byte {
	if multi {
		return hex.AppendEncode(append(dst, "mrk-"...), k[:])
	}
	for i, end := range [...]int{4, 6, 8, 10, 16} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, k[[...]int{0, 4, 6, 8, 10}[i]:end])
	}
	return dst
}

// parseKeyID parses either text form; multi says which it was. Upper-case
// digits are refused: one key has one spelling.
func parseKeyID(s []byte) (id KeyID, multi, ok bool) {
	if len(s) != 36 {
		return KeyID{}, false, false
	}
	if string(s[:4]) == "mrk-" {
		return id, true, lowerHex(id[:], s[4:])
	}
	for i, end := 0, 0; i < 16; i++ {
		if end == 8 || end == 13 || end == 18 || end == 23 {
			if s[end] != '-' {
				return KeyID{}, false, false
			}
			end++
		}
		if !lowerHex(id[i:i+1], s[end:end+2]) {
			return KeyID{}, false, false
		}
		end += 2
	}
	return id, false, true
}

// lowerHex decodes len(dst) bytes from lower-case hex digits.
func lowerHex(dst, s []byte) bool {
	for i := range dst {
		hi, lo := hexDigit[s[2*i]], hexDigit[s[2*i+1]]
		if hi|lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

// hexDigit maps a lower-case hex digit to its value, everything else to 0xff.
var hexDigit = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range "0123456789abcdef" {
		t[c] = byte(i)
	}
	return t
}()

// EventID names one call: it is drawn before anything else, stands in the
// call's audit record and in the outbox row of its change. 16 random bytes.
type EventID [16]byte

// String returns the id as a UUID-shaped text.
func (e EventID) String() string { return string(KeyID(e).AppendText(nil, false)) }
