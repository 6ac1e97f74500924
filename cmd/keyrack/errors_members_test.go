package main_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol"
)

// members breaks every constraint of every member of every operation, once each.
func members(t *testing.T) (rows []errorRow) {
	r := racktest.Start(t)
	dir := shortDir(t)
	m := &breaker{env: asMap(r), dir: dir, key: filepath.Base(r.CreateKey())}
	names := map[string]string{dir: "DIR", r.Dir: "DIR"}
	for _, op := range table.All() {
		for i := range op.In.Fields {
			f := &op.In.Fields[i]
			for _, b := range m.breaks(t, f) {
				args := append([]string{"call", op.Service.Name, op.Name}, m.rest(t, op, f)...)
				situation := fmt.Sprintf("%s: %s %s", op.Action, f.Name, b.how)
				status, out, stderr := keyrack.Run(m.env, append(args, b.flags...)...)
				if status == 0 {
					t.Errorf("%s succeeds: %s", situation, out)
					continue
				}
				rows = append(rows, readError(t, situation, status, stderr, names))
			}
		}
	}
	return rows
}

// breaker makes flags of requests that are well-formed but for one member.
type breaker struct {
	env      map[string]string
	dir, key string
}

// broken is a way to break a member.
type broken struct {
	how   string
	flags []string
}

// file returns a flag value for bytes.
func (m *breaker) file(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(m.dir, "bytes"+strconv.Itoa(n))
	if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return "@" + path
}

// rest returns flags for the required members but f.
func (m *breaker) rest(t *testing.T, op *api.Op, not *api.Field) (flags []string) {
	t.Helper()
	for i := range op.In.Fields {
		if f := &op.In.Fields[i]; f.Required && f != not {
			flags = append(flags, "--"+f.Flag, m.good(t, f))
		}
	}
	return flags
}

// good returns a value that f takes.
func (m *breaker) good(t *testing.T, f *api.Field) string {
	t.Helper()
	switch {
	case f.Form == api.AliasForm:
		return "alias/nothing"
	case f.Pattern != nil:
		return f.Pattern.Example
	case f.Name == "KeyId" || strings.HasSuffix(f.Name, "KeyId"):
		return m.key
	case f.Name == "KeyHash":
		return "sha256:" + strings.Repeat("0", 64)
	case f.Name == "Account":
		return racktest.Account.String()
	case f.Name == "Tags":
		return `{"TagKey":"a","TagValue":"b"}`
	case f.Bytes():
		return m.file(t, int(max(f.Min, 1)))
	case f.Shape == api.ShapeInt:
		return strconv.FormatInt(max(f.Min, 0), 10)
	case f.Shape == api.ShapeEnum:
		return f.Names[0]
	}
	return strings.Repeat("x", int(max(f.Min, 1)))
}

// breaks returns the ways to break f.
func (m *breaker) breaks(t *testing.T, f *api.Field) (all []broken) {
	t.Helper()
	flag := "--" + f.Flag
	if f.Required && (f.Min > 0 || f.Shape == api.ShapeList) { // else the command line sends its zero
		all = append(all, broken{"is missing", nil})
	}
	switch f.Shape {
	case api.ShapeText, api.ShapeKeyRef:
		all = append(all, m.texts(f, flag)...)
	case api.ShapeSecret, api.ShapeBlob:
		if f.Max < api.Unbounded {
			all = append(all, broken{"is too long", []string{flag, m.file(t, int(f.Max)+1)}})
		}
	case api.ShapeInt:
		all = append(all, integers(f, flag)...)
	case api.ShapeEnum:
		all = append(all, broken{"is none of its values", []string{flag, "NONSENSE"}})
	case api.ShapeContext:
		all = append(all, broken{"is too long", []string{flag, "k=" + strings.Repeat("x", int(f.Max))}})
	case api.ShapeList:
		all = append(all, m.lists(t, f, flag)...)
	case api.ShapeStruct:
		all = append(all, broken{"is no JSON", []string{flag, "nonsense"}})
	}
	return all
}

func (m *breaker) texts(f *api.Field, flag string) (all []broken) {
	if f.Max < api.Unbounded {
		all = append(all, broken{"is too long", []string{flag, strings.Repeat("x", int(f.Max)+1)}})
	}
	if f.Min > 0 {
		all = append(all, broken{"is too short", []string{flag, strings.Repeat("x", int(f.Min)-1)}})
	}
	if f.Pattern != nil {
		all = append(all, broken{"breaks its pattern", []string{flag, strings.Repeat("—", int(max(f.Min, 1)))}})
	}
	switch f.Form {
	case api.AliasForm:
		all = append(all, broken{"does not begin with alias/", []string{flag, "letters"}})
	case api.AnyForm:
	default:
		all = append(all, broken{"is an alias", []string{flag, "alias/letters"}})
	}
	return all
}

func integers(f *api.Field, flag string) (all []broken) {
	if f.Max < api.Unbounded {
		all = append(all, broken{"is too great", []string{flag, strconv.FormatInt(f.Max+1, 10)}})
	}
	if f.Min > -api.Unbounded {
		all = append(all, broken{"is too small", []string{flag + "=" + strconv.FormatInt(f.Min-1, 10)}})
	}
	return append(all, broken{"is no number", []string{flag, "many"}})
}

func (m *breaker) lists(t *testing.T, f *api.Field, flag string) (all []broken) {
	t.Helper()
	item := m.good(t, f)
	if f.Elem.Shape == api.ShapeEnum {
		item = f.Elem.Names.Name(1)
	}
	var many []string
	for range f.Items[1] + 1 {
		many = append(many, flag, item)
	}
	all = append(all, broken{"has too many items", many})
	if f.Elem.Shape == api.ShapeText {
		all = append(all, broken{"has an item that is too long", []string{flag, strings.Repeat("x", int(f.Elem.Max)+1)}})
	}
	return all
}

// frames are what a client that somebody else wrote may get wrong.
func frames(t *testing.T) (rows []errorRow) {
	r := racktest.Start(t)
	request := func(b ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	for _, c := range []struct {
		situation string
		frame     []byte
	}{
		{"a frame that is no array", request(0xa0)},
		{"an array of three", request(0x83, 1, 0x19, 1, 2)},
		{"an id of 0", request(0x84, 0, 0x19, 1, 2, 0xa0, 0xa0)},
		{"a head that could be shorter", request(0x84, 1, 0x19, 0, 2, 0xa0, 0xa0)},
		{"an unknown operation", request(0x84, 1, 0x19, 0x7f, 0xff, 0xa0, 0xa0)},
		{"an unknown member", request(0x84, 1, 0x19, 1, 2, 0xa1, 0x18, 0x3f, 0, 0xa0)},
		{"a member of another type", request(0x84, 1, 0x19, 1, 2, 0xa1, 1, 0xf5, 0xa0)},
		{"members in the wrong order", request(0x84, 1, 0x19, 1, 2, 0xa2, 2, 0x41, 0, 1, 0x61, 'x', 0xa0)},
		{"a member given twice", request(0x84, 1, 0x19, 1, 2, 0xa2, 1, 0x61, 'x', 1, 0x61, 'x', 0xa0)},
		{"a null", request(0x84, 1, 0x19, 1, 2, 0xa1, 1, 0xf6, 0xa0)},
		{"text that is not UTF-8", request(0x84, 1, 0x19, 1, 2, 0xa1, 1, 0x61, 0xff, 0xa0)},
		{"an option", request(0x84, 1, 0x19, 1, 2, 0xa0, 0xa1, 1, 0xf5)},
		{"something behind the array", request(0x84, 1, 0x19, 1, 2, 0xa0, 0xa0, 0)},
		{"a frame that is too long", []byte{0, 2, 0, 1}},
	} {
		rows = append(rows, readRefusal(t, r, c.situation, c.frame))
	}
	return rows
}

// readRefusal sends a frame and reads what is answered to it.
func readRefusal(t *testing.T, r *racktest.Rack, situation string, frame []byte) errorRow {
	t.Helper()
	conn, err := (&tls.Dialer{Config: &tls.Config{ // the pin is the client's business, and has tests of its own
		InsecureSkipVerify: true, Certificates: []tls.Certificate{r.Config.Certificate}, NextProtos: []string{protocol.ALPN}, MinVersion: tls.VersionTLS13,
	}}).DialContext(context.Background(), "tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	readFrame(t, conn) // the hello
	reply, err := protocol.ParseReply(readFrame(t, conn))
	if err != nil {
		t.Fatal(err)
	}
	status, stderr := keyrack.Report(reply.Err())
	return readError(t, situation, status, stderr, nil)
}

func readFrame(t *testing.T, c io.Reader) []byte {
	t.Helper()
	var n [4]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, c, int64(binary.BigEndian.Uint32(n[:]))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
