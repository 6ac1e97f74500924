package audit

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/keyrack/keyrack/internal/cbor"
)

// Record is what the log keeps of one call, or of several refused ones. Zero members are left
// out of the encoding. No member may hold a secret: what a request or a reply shows is chosen
// by the operation's field table.
type Record struct {
	Event      [16]byte // 1: random id of the record
	Time       int64    // 2: µs since 1970, UTC
	Op         uint16   // 3: the operation's wire number; 0 is none: unknown operation, broken frame, refused connection
	Principal  string   // 4: ARN of the caller
	Account    string   // 5: 12 digits
	Source     string   // 6: address, or "unix" and the peer's uid
	Credential [32]byte // 7: SHA-256 of the client's public key; zero is none
	RequestID  uint64   // 8: as the caller numbered it
	Error      uint16   // 9: number of the error kind; 0 is success
	Reason     string   // 10: why it was decided so
	Resource   string   // 11: ARN of what was asked for, or several with spaces between them
	Request    []byte   // 12: deterministic CBOR map {member number: value} of the shown members; empty is none
	Response   []byte   // 13: likewise
	Via        string   // 14: the service that called in the caller's name
	Count      uint32   // 15: refusals folded into this record; 0 is one
}

// ErrRecord is wrapped by the errors of [ParseRecord].
var ErrRecord = errors.New("audit: not a record")

// recordMembers is the number of the last member; each is one byte as a map key.
const recordMembers = 15

// AppendRecord appends the record's encoding: a CBOR map of the members above by number,
// deterministic (RFC 8949 §4.2.1). Text that is not UTF-8 is made so. Request and Response are
// taken as they are: [ParseRecord] refuses the record if they are not what Record asks for. It
// does not allocate while dst has room.
func AppendRecord(dst []byte, r *Record) []byte {
	at := len(dst)
	dst = cbor.AppendMap(dst, 0) // at most 15 members: the head is one byte, raised below
	if r.Event != [16]byte{} {
		dst = cbor.AppendBytes(append(dst, 1), r.Event[:])
	}
	if r.Time != 0 {
		dst = cbor.AppendInt(append(dst, 2), r.Time)
	}
	dst = appendUint(dst, 3, uint64(r.Op))
	dst = appendText(dst, 4, r.Principal)
	dst = appendText(dst, 5, r.Account)
	dst = appendText(dst, 6, r.Source)
	if r.Credential != [32]byte{} {
		dst = cbor.AppendBytes(append(dst, 7), r.Credential[:])
	}
	dst = appendUint(dst, 8, r.RequestID)
	dst = appendUint(dst, 9, uint64(r.Error))
	dst = appendText(dst, 10, r.Reason)
	dst = appendText(dst, 11, r.Resource)
	dst = appendRaw(dst, 12, r.Request)
	dst = appendRaw(dst, 13, r.Response)
	dst = appendText(dst, 14, r.Via)
	dst = appendUint(dst, 15, uint64(r.Count))
	dst[at] += r.members()
	return dst
}

// members counts the members that are not zero.
func (r *Record) members() (n byte) {
	for _, present := range [recordMembers]bool{
		r.Event != [16]byte{}, r.Time != 0, r.Op != 0, r.Principal != "", r.Account != "", r.Source != "", r.Credential != [32]byte{},
		r.RequestID != 0, r.Error != 0, r.Reason != "", r.Resource != "", len(r.Request) > 0, len(r.Response) > 0, r.Via != "", r.Count != 0,
	} {
		if present {
			n++
		}
	}
	return n
}

// appendUint, appendText and appendRaw append one member unless it is zero. A number below 24
// is its own CBOR encoding, so a member's number is one byte.
func appendUint(dst []byte, member byte, n uint64) []byte {
	if n == 0 {
		return dst
	}
	return cbor.AppendUint(append(dst, member), n)
}

func appendText(dst []byte, member byte, s string) []byte {
	if s == "" {
		return dst
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return cbor.AppendText(append(dst, member), s)
}

func appendRaw(dst []byte, member byte, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return append(append(dst, member), b...)
}

// ParseRecord reads what [AppendRecord] writes, and only that: it accepts exactly the bytes
// that the record returned encodes to. Request and Response alias b, the rest is copied. Its
// errors wrap [ErrRecord] and show nothing of b.
func ParseRecord(b []byte) (Record, error) {
	var rec Record
	r := cbor.NewReader(b)
	n, err := r.Map()
	if err == nil {
		err = rec.readMembers(&r, n)
	}
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return rec, nil
}

// readMembers reads the n members of the map.
func (r *Record) readMembers(c *cbor.Reader, n int) error {
	var next uint64
	for range n {
		member, err := c.UintKey(&next)
		if err != nil {
			return err
		}
		if member < 1 || member > recordMembers {
			return fmt.Errorf("unknown member %d", member)
		}
		zero, err := r.readMember(c, member)
		if err == nil && zero {
			err = errors.New("a zero member is spelt out")
		}
		if err != nil {
			return fmt.Errorf("member %d: %w", member, err)
		}
	}
	return nil
}

// readMember reads one member and reports whether it is zero, which is written by leaving it
// out.
func (r *Record) readMember(c *cbor.Reader, member uint64) (zero bool, err error) {
	switch member {
	case 1:
		return readFixed(c, r.Event[:])
	case 2:
		r.Time, err = c.Int()
		return r.Time == 0, err
	case 3:
		return readUint(c, &r.Op)
	case 4:
		return readText(c, &r.Principal)
	case 5:
		return readText(c, &r.Account)
	case 6:
		return readText(c, &r.Source)
	case 7:
		return readFixed(c, r.Credential[:])
	case 8:
		return readUint(c, &r.RequestID)
	case 9:
		return readUint(c, &r.Error)
	case 10:
		return readText(c, &r.Reason)
	case 11:
		return readText(c, &r.Resource)
	case 12:
		return readMap(c, &r.Request)
	case 13:
		return readMap(c, &r.Response)
	case 14:
		return readText(c, &r.Via)
	}
	return readUint(c, &r.Count)
}

// readUint, readText and readFixed read one member's value and report whether it is zero.
func readUint[T uint16 | uint32 | uint64](c *cbor.Reader, to *T) (zero bool, err error) {
	n, err := c.Uint()
	*to = T(n)
	if err == nil && uint64(*to) != n {
		err = errors.New("number is too large")
	}
	return n == 0, err
}

func readText(c *cbor.Reader, to *string) (zero bool, err error) {
	s, err := c.Text()
	*to = string(s)
	return len(s) == 0, err
}

func readFixed(c *cbor.Reader, to []byte) (zero bool, err error) {
	b, err := c.Bytes()
	if err == nil && len(b) != len(to) {
		err = errors.New("wrong length")
	}
	copy(to, b)
	for _, x := range to {
		if x != 0 {
			return false, err
		}
	}
	return true, err
}

// readMap reads a member of shown members: a map with ascending unsigned keys, whose values are
// any deterministic CBOR.
func readMap(c *cbor.Reader, to *[]byte) (zero bool, err error) {
	at := *c
	b, err := c.Raw()
	if err != nil {
		return false, err
	}
	*to = b
	n, err := at.Map()
	if err != nil {
		return false, err
	}
	var next uint64
	for range n {
		if _, err := at.UintKey(&next); err != nil {
			return false, err
		}
		if _, err := at.Raw(); err != nil {
			return false, err
		}
	}
	return false, nil
}
