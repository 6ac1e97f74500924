package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/cbor"
)

// auditRecord is an audit record as it is printed: numbers have become the names
// they stand for, and what is absent in the record is absent here.
type auditRecord struct {
	Position   int64 // in the log, from 0
	EventId    string
	Time       string
	Operation  string  `json:",omitempty"` // "kms:Encrypt"; absent where no operation was reached
	Principal  string  `json:",omitempty"`
	Account    string  `json:",omitempty"`
	Source     string  `json:",omitempty"`
	Credential string  `json:",omitempty"` // sha256:…
	RequestId  uint64  `json:",omitempty"`
	Error      string  `json:",omitempty"`
	Reason     string  `json:",omitempty"`
	Resource   string  `json:",omitempty"`
	Request    members `json:",omitempty"`
	Response   members `json:",omitempty"`
	Via        string  `json:",omitempty"`
	Count      uint32  `json:",omitempty"` // refusals folded into this record
}

// readRecord reads an encoded record.
func readRecord(position int64, encoded []byte) (*auditRecord, error) {
	r, err := audit.ParseRecord(encoded)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", position, err)
	}
	p := &auditRecord{
		Position: position, EventId: api.EventID(r.Event).String(), Time: timeText(r.Time),
		Principal: r.Principal, Account: r.Account, Source: r.Source, RequestId: r.RequestID,
		Error: api.Kind(r.Error).String(), Reason: r.Reason, Resource: r.Resource, Via: r.Via, Count: r.Count,
	}
	if r.Credential != [32]byte{} {
		p.Credential = "sha256:" + hex.EncodeToString(r.Credential[:])
	}
	if r.Op == 0 {
		return p, nil
	}
	op := table.ByNumber(r.Op)
	if op == nil { // of a later version
		p.Operation = fmt.Sprintf("operation %d", r.Op)
		return p, nil
	}
	p.Operation = op.Action
	if p.Request, err = readMembers(op.In, r.Request); err == nil {
		p.Response, err = readMembers(op.Out, r.Response)
	}
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", position, err)
	}
	return p, nil
}

// timeText returns µs since 1970 as RFC 3339 of one width, so that lines align.
func timeText(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02T15:04:05.000000Z07:00")
}

// String returns the record as one line of parts with two spaces between them.
// Most parts are of a caller's choosing, so each is made safe to print.
func (p *auditRecord) String() string {
	what, who, outcome := p.Operation, p.Principal, p.Error
	if what == "" {
		what = "(connection)"
	}
	if who == "" {
		who = p.Credential
	}
	if outcome == "" {
		outcome = "ok"
	}
	if p.Count > 0 {
		outcome += fmt.Sprintf(" ×%d", p.Count)
	}
	parts := []string{strconv.FormatInt(p.Position, 10), p.Time, what, outcome, p.Reason, who, p.which(), p.Source, p.Via, p.Resource, p.Request.String()}
	if len(p.Response) > 0 {
		parts = append(parts, "-> "+p.Response.String())
	}
	var line []string
	for _, part := range parts {
		if part != "" {
			line = append(line, oneLine(part))
		}
	}
	return strings.Join(line, "  ")
}

// which tells the clients of one account apart: their keys, as far as a line has room.
// JSON has the whole hash, which keyrack principal list has, too.
func (p *auditRecord) which() string {
	const shown = len("sha256:") + 12
	if p.Principal == "" || len(p.Credential) < shown {
		return ""
	}
	return p.Credential[:shown] + "…"
}

// members are the shown members of a request or response in their order.
type members []member

// member is a name and a value. A map would lose the order.
type member struct {
	name  string
	value any // string, bool, int64, members or []any
}

// readMembers reads what an audit record keeps of a request or response. Unlike
// a decoder it adds nothing: a member that is not in the record is not printed.
func readMembers(s *api.Struct, encoded []byte) (members, error) {
	if len(encoded) == 0 {
		return nil, nil
	}
	r := cbor.NewReader(encoded)
	m, err := readStruct(s, &r)
	if err == nil {
		err = r.Done()
	}
	return m, err
}

// readStruct reads {member number: value} by the field table. Members of a later
// version are passed over and said to be there.
func readStruct(s *api.Struct, r *cbor.Reader) (members, error) {
	n, err := r.Map()
	if err != nil {
		return nil, err
	}
	var next uint64
	m := members{}
	for range n {
		number, err := r.UintKey(&next)
		if err != nil {
			return nil, err
		}
		f := fieldByNumber(s, number)
		if f == nil { // of a later version
			_, err = r.Raw()
			m = append(m, member{fmt.Sprintf("member %d", number), "…"})
		} else {
			var v any
			v, err = readValue(f, r)
			m = append(m, member{f.Name, v})
		}
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// fieldByNumber returns the member with a wire number, or nil.
func fieldByNumber(s *api.Struct, n uint64) *api.Field {
	for i := range s.Fields {
		if s.Fields[i].N == n {
			return &s.Fields[i]
		}
	}
	return nil
}

// readValue reads one value as what it is printed as.
func readValue(f *api.Field, r *cbor.Reader) (any, error) {
	switch f.Shape {
	case api.ShapeText, api.ShapeKeyRef:
		b, err := r.Text()
		return string(b), err
	case api.ShapeSecret, api.ShapeBlob:
		b, err := r.Bytes()
		return base64.StdEncoding.EncodeToString(b), err
	case api.ShapeBool:
		return r.Bool()
	case api.ShapeInt:
		return r.Int()
	case api.ShapeTime:
		n, err := r.Int()
		return timeText(n), err
	case api.ShapeEnum:
		n, err := r.Uint()
		return f.Names.Name(uint8(min(n, 255))), err
	case api.ShapeContext:
		return readPairs(r)
	case api.ShapeStruct:
		return readStruct(f.Struct, r)
	}
	return readList(f.Elem, r)
}

// readPairs reads an encryption context.
func readPairs(r *cbor.Reader) (members, error) {
	b, err := r.Raw()
	if err != nil {
		return nil, err
	}
	c, err := api.ParseEncryptionContext(b)
	m := members{}
	for k, v := range c.Pairs {
		m = append(m, member{string(k), string(v)})
	}
	return m, err
}

// readList reads a list of one shape.
func readList(elem *api.Field, r *cbor.Reader) ([]any, error) {
	n, err := r.Array()
	if err != nil {
		return nil, err
	}
	list := []any{}
	for range n {
		v, err := readValue(elem, r)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// String returns the members as name=value, quoted where that is needed to
// tell them apart.
func (m members) String() string {
	var parts []string
	for _, x := range m {
		parts = append(parts, quoted(x.name)+"="+valueText(x.value))
	}
	return strings.Join(parts, " ")
}

// valueText returns a value for people.
func valueText(v any) string {
	switch v := v.(type) {
	case members:
		return "{" + v.String() + "}"
	case []any:
		var items []string
		for _, item := range v {
			items = append(items, valueText(item))
		}
		return "[" + strings.Join(items, " ") + "]"
	case string:
		return quoted(v)
	}
	return fmt.Sprint(v)
}

// quoted quotes text that could be taken for more than one word.
func quoted(s string) string {
	if q := strconv.Quote(s); len(q) != len(s)+2 || strings.ContainsAny(s, " =[]{}") || s == "" {
		return q
	}
	return s
}

// MarshalJSON writes an object in the order of the members.
func (m members) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, x := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(x.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(x.value)
		if err != nil {
			return nil, err
		}
		b.Write(append(append(name, ':'), value...))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
