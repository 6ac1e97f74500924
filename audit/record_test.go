package audit_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyrack/keyrack/audit"
)

func fullRecord() audit.Record {
	return audit.Record{
		Event: [16]byte{15: 1}, Time: -5, Op: 65535, Principal: "p", Account: "a", Source: "s", Credential: [32]byte{31: 2}, RequestID: 1<<64 - 1,
		Error: 24, Reason: "é", Resource: "r", Request: []byte{0xa1, 0x03, 0x41, 0xff}, Response: []byte{0xa0}, Via: "secretsmanager", Count: 1<<32 - 1,
	}
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]audit.Record{"empty": {}, "full": fullRecord(), "typical": *typical(), "test's": *record(300)} {
		got, err := audit.ParseRecord(audit.AppendRecord(nil, &r))
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, r)
		}
	}
	if got := audit.AppendRecord([]byte{7}, &audit.Record{}); !bytes.Equal(got, []byte{7, 0xa0}) {
		t.Errorf("empty record: %x", got)
	}
}

func TestRecordProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 30, 60)
		want := audit.Record{
			Time: rapid.Int64().Draw(t, "time"), Op: rapid.Uint16().Draw(t, "op"), Principal: text.Draw(t, "principal"), Account: text.Draw(t, "account"),
			RequestID: rapid.Uint64().Draw(t, "request id"), Error: rapid.Uint16().Draw(t, "error"), Reason: text.Draw(t, "reason"), Via: text.Draw(t, "via"),
			Count: rapid.Uint32().Draw(t, "count"),
		}
		copy(want.Event[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "event"))
		got, err := audit.ParseRecord(audit.AppendRecord(nil, &want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	})
}

// TestRecordTextIsMadeUTF8 keeps a record readable whatever a caller sent.
func TestRecordTextIsMadeUTF8(t *testing.T) {
	t.Parallel()
	got, err := audit.ParseRecord(audit.AppendRecord(nil, &audit.Record{Source: "a\xff\xfeb"}))
	if err != nil || got.Source != "a\uFFFDb" {
		t.Errorf("got %q, %v", got.Source, err)
	}
}

func TestRecordRefused(t *testing.T) {
	t.Parallel()
	for name, encoding := range map[string]string{
		"nothing":                 "",
		"not a map":               "80",
		"unknown member":          "a11001",
		"member 0":                "a10001",
		"negative member":         "a12001",
		"members out of order":    "a2046161" + "0301",
		"member twice":            "a203010302",
		"zero spelt out":          "a10300",
		"empty text spelt out":    "a10460",
		"zero event spelt out":    "a10150" + strings.Repeat("00", 16),
		"short event":             "a1014101",
		"long credential":         "a1075821" + strings.Repeat("01", 33),
		"long head":               "a1031801",
		"op of 17 bits":           "a1031a00010000",
		"count of 33 bits":        "a10f1b0000000100000000",
		"time beyond 64 bits":     "a1021bffffffffffffffff",
		"text not UTF-8":          "a10461ff",
		"indefinite text":         "a1047f6161ff",
		"request not a map":       "a10c41aa",
		"request keyed by text":   "a10ca1616101",
		"request out of order":    "a10ca202010101",
		"request member twice":    "a10ca201010102",
		"request with null":       "a10ca101f6",
		"response nested deeply":  "a10da101" + strings.Repeat("81", 20) + "00",
		"bytes behind":            "a1030100",
		"cut short":               "a103",
		"more members than bytes": "af0301",
	} {
		b, err := hex.DecodeString(encoding)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := audit.ParseRecord(b); !errors.Is(err, audit.ErrRecord) {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	full := fullRecord()
	f.Add(audit.AppendRecord(nil, &full))
	f.Add(audit.AppendRecord(nil, typical()))
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := audit.ParseRecord(b)
		if err != nil {
			return
		}
		if again := audit.AppendRecord(nil, &r); !bytes.Equal(again, b) {
			t.Errorf("accepted %x, writes %x", b, again)
		}
	})
}
