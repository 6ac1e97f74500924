package audit_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/tlog"
)

var update = flag.Bool("update", false, "rewrite the example in FORMAT.md")

const exampleBytes = 16 << 10

// exampleKey is the start key of the document's example.
func exampleKey([32]byte) (*securemem.Buffer, error) {
	var k [32]byte
	for i := range k {
		k[i] = byte(i)
	}
	return securemem.From(k[:])
}

var exampleRecords = []*audit.Record{
	{Event: [16]byte{0xe1}, Time: 1_767_225_600_000_000, Op: 257, Principal: "arn:aws:iam::111122223333:user/alice", Account: "111122223333",
		Source: "192.0.2.7", Credential: [32]byte{0xc7}, RequestID: 1, Resource: "arn:aws:kms:rack-1:111122223333:key/1234", Request: []byte{0xa1, 0x01, 0x64, '1', '2', '3', '4'}},
	{Event: [16]byte{0xe2}, Time: 1_767_225_600_000_250, Op: 257, Principal: "arn:aws:iam::111122223333:user/alice", Account: "111122223333",
		Source: "192.0.2.7", Credential: [32]byte{0xc7}, RequestID: 2, Error: 3, Reason: "no statement allows it", Count: 9},
	{Event: [16]byte{0xe3}, Time: 1_767_225_601_000_000, Source: "192.0.2.9", Error: 1},
}

// TestFormatExample reads the bytes out of the document and finds in them what the document
// says.
func TestFormatExample(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		doc = updateExample(t, doc)
	}
	key, err := tlog.ParseVerifier(strings.TrimSpace(block(t, doc, "key")))
	if err != nil {
		t.Fatal(err)
	}
	d := newDisk()
	segment := undump(t, block(t, doc, "segment"))
	d.names["checkpoint"] = &inode{seen: []byte(block(t, doc, "checkpoint"))}
	d.names[audit.SegmentFile(0)] = &inode{seen: segment}
	r, err := audit.Verify(d, audit.VerifyOptions{Keys: []tlog.Verifier{key}, StartKey: exampleKey})
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != 3 || r.Batches != 2 || r.Covered != 3 || r.Checked != 3 || r.Origin != "rack.example/audit/1" {
		t.Errorf("report: %+v", r)
	}
	for i, want := range exampleRecords {
		if b := audit.AppendRecord(nil, want); bytes.Count(segment, b) != 1 {
			t.Errorf("record %d is not in the example", i)
		}
	}
}

// block returns the lines of the document's block of that name.
func block(t *testing.T, doc []byte, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(string(doc), "\n```"+name+"\n")
	body, _, end := strings.Cut(rest, "```\n")
	if !ok || !end {
		t.Fatalf("FORMAT.md has no block %q", name)
	}
	return body
}

func undump(t *testing.T, dump string) []byte {
	t.Helper()
	out := make([]byte, exampleBytes)
	for line := range strings.Lines(dump) {
		var at int
		at16, text, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if _, err := fmt.Sscanf(at16, "%x", &at); err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil || len(b) != 16 {
			t.Fatalf("line %q: %v", line, err)
		}
		copy(out[at:], b)
	}
	return out
}

func dump(b []byte) string {
	var s strings.Builder
	for at := 0; at < len(b); at += 16 {
		if line := b[at : at+16]; !bytes.Equal(line, make([]byte, 16)) {
			fmt.Fprintf(&s, "%04x  % x\n", at, line)
		}
	}
	return s.String()
}

// updateExample writes a new example, under a new key, into the document.
func updateExample(t *testing.T, doc []byte) []byte {
	t.Helper()
	d := newDisk()
	c := tiny(d)
	c.StartKey = exampleKey
	l := open(t, c)
	var trail audit.Trail
	for i, r := range exampleRecords {
		trail.Add(r)
		if i == 0 {
			continue
		}
		if _, err := l.Append(&trail, true); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	key, err := tlog.FormatP256(origin, &signingKey().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	for name, body := range map[string]string{"key": key + "\n", "checkpoint": string(l.Checkpoint()), "segment": dump(d.bytes(audit.SegmentFile(0)))} {
		text = strings.Replace(text, "```"+name+"\n"+block(t, []byte(text), name), "```"+name+"\n"+body, 1)
	}
	if err := os.WriteFile("FORMAT.md", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}
