package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/keyrack/keyrack/api"
)

// format is how a command prints: for people and $(…), or as JSON with AWS's names.
type format string

// The formats. What asText prints may change between versions, asJSON only grows.
const (
	asText format = "text"
	asJSON format = "json"
)

// outputFlag declares --output.
func outputFlag(fs *flag.FlagSet) *format {
	f := asText
	setting(fs, "client.output", func(text string) error { f = format(text); return nil })
	return &f
}

// print prints v as JSON, or text as it is. An error of the writer is an error of
// the command: whoever redirected the output believes it is there.
func (f *format) print(w io.Writer, v any, text string) error {
	if *f == asText {
		_, err := io.WriteString(w, text)
		return err
	}
	b, err := indented(v)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

// indented returns v as JSON for people who read JSON. Nothing is escaped that
// only a web page would trip over.
func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return harmless(b.Bytes()), err
}

// harmless escapes what a terminal would obey and JSON allows to stand in text as it
// is (RFC 8259 §7): DEL, the controls of ISO 6429 from U+0080 on, and what turns the
// direction of a line. It is the same JSON.
func harmless(b []byte) []byte {
	obeyed := func(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }
	if !bytes.ContainsFunc(b, obeyed) {
		return b
	}
	var out []byte
	for _, r := range string(b) {
		if !obeyed(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, "\\u%04x", unit)
		}
	}
	return out
}

// responseJSON returns a response with AWS's names.
func responseJSON(op *api.Op, out any) json.RawMessage {
	return op.Out.AppendJSON(nil, out)
}

// writeResult writes to a file the bytes that a command was asked for, or the
// whole response as JSON.
func (sh *shell) writeResult(to string, format *format, op *api.Op, out any, result []byte) error {
	if *format == asJSON {
		b, err := indented(responseJSON(op, out))
		if err != nil {
			return err
		}
		result = b
	}
	if err := sh.writeOutput(to, result); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// columns lines up rows of a name and a value. Values may come from elsewhere.
func columns(rows [][2]string) string {
	cells := make([][]string, len(rows))
	for i := range rows {
		cells[i] = rows[i][:]
	}
	return lines(cells)
}

// lines lines up the cells of rows, which may come from elsewhere.
func lines(rows [][]string) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, oneLine(cell))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	return b.String()
}
