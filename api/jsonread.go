package api

import (
	"errors"
	"reflect"
	"time"

	"github.com/keyrack/keyrack/internal/jsonwire"
)

// DecodeJSON reads body, a JSON object with AWS's member names, into in, a
// pointer to a zero value of s's type, and checks it with the same texts and kinds
// as [Struct.DecodeCBOR]. Names are compared byte for byte, one that is repeated
// is refused, null is absent; in a list or a context it is refused, because what
// was left out would be missed. Base64 has one spelling and integers no fraction.
// In AWS's dialect an empty body is an empty object. Bytes of in alias body or
// memory of their own, which nobody wipes: a server's is [Struct.DecodeAWSJSON].
func (s *Struct) DecodeJSON(body []byte, in any, modes ...JSONMode) error {
	return s.decodeJSON(body, in, join(modes), nil)
}

// DecodeAWSJSON is DecodeJSON in AWS's dialect, with what does not stand in body
// as it is (base64, text with escapes) in bytes of mem.
func (s *Struct) DecodeAWSJSON(body []byte, in any, mem Memory) error {
	return s.decodeJSON(body, in, AWSJSON, mem)
}

func (s *Struct) decodeJSON(body []byte, in any, mode JSONMode, mem Memory) error {
	if len(body) == 0 && mode&AWSJSON != 0 {
		body = []byte("{}")
	}
	var r jsonwire.Reader
	r.Reset(body, jsonwire.Limits{})
	r.Lend(mem)
	if mode&AWSJSON != 0 {
		return s.decodeNamed(&r, in, mode)
	}
	return s.decodeNamed(people{&r}, in, mode)
}

// decodeNamed reads the one value that r stands before into in, and checks it.
func (s *Struct) decodeNamed(r namedReader, in any, mode JSONMode) error {
	var bad violations
	err := s.readNamed(r, reflect.ValueOf(in).Elem(), mode, &bad)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return s.malformed(err)
	}
	if mode&Partial != 0 && len(bad) == 0 {
		return nil
	}
	return s.finish(in, bad)
}

// people reads times as people write them, too.
type people struct{ *jsonwire.Reader }

// Micros reads a time: RFC 3339 text, or a number of seconds.
func (p people) Micros() (int64, error) {
	if p.Kind() != jsonwire.Text {
		return p.Reader.Micros()
	}
	text, err := p.Text()
	if err != nil {
		return 0, err
	}
	t, err := parseTime(string(text))
	return int64(t), err
}

// parseTime parses RFC 3339 text of microseconds at most, or a date alone, which is its
// first moment in UTC.
func parseTime(text string) (Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t, err = time.Parse(time.DateOnly, text)
	}
	if err != nil {
		return 0, errors.New("want a time such as 2026-01-02T15:04:05Z, a date such as 2026-01-02, or a number of seconds since 1970")
	}
	if t.Nanosecond()%1000 != 0 {
		return 0, errors.New("time is finer than a microsecond")
	}
	return TimeOf(t), checkTime(t.UnixMicro())
}
