package main_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
)

// TestRecordPrintsNothingThatATerminalObeys puts into a record what a caller
// may choose.
func TestRecordPrintsNothingThatATerminalObeys(t *testing.T) {
	t.Parallel()
	hostile := "a\x1b[2J\u202e \n2  now  kms:Decrypt  ok"
	request := kmsapi.Encrypt.In.AppendAudit(nil, &kmsapi.EncryptRequest{
		KeyId:             api.ParseKeyRef([]byte("alias/" + hostile)),
		Plaintext:         api.Secret("never shown"),
		EncryptionContext: api.NewEncryptionContext(map[string]string{hostile: hostile, "k": "a b=c"}),
	})
	line, err := keyrack.FormatRecord(audit.AppendRecord(nil, &audit.Record{
		Time: 1_700_000_000_000_000, Op: kmsapi.Encrypt.Number, Principal: hostile, Source: hostile, Reason: hostile,
		Resource: hostile, Error: uint16(api.KindAccessDenied), Count: 3, Request: request,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(line, "\x1b\n\u202e") {
		t.Errorf("the line has control characters: %q", line)
	}
	for _, want := range []string{"7  2023-11-14T22:13:20.000000Z  kms:Encrypt  AccessDeniedException ×3  ", `k="a b=c"`} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %q", want, line)
		}
	}
	if strings.Contains(line, "never shown") {
		t.Errorf("a secret is in %q", line)
	}
}

// TestJSONPrintsNothingThatATerminalObeys, and says the same all the same.
func TestJSONPrintsNothingThatATerminalObeys(t *testing.T) {
	t.Parallel()
	hostile := "a\x1b[2J\x7f\u009b31m\u202eb\u2028\U000e0041é€\U0001f511"
	record := audit.AppendRecord(nil, &audit.Record{Op: kmsapi.Encrypt.Number, Principal: hostile, Request: kmsapi.Encrypt.In.AppendAudit(nil,
		&kmsapi.EncryptRequest{EncryptionContext: api.NewEncryptionContext(map[string]string{hostile: hostile})})})
	for name, print := range map[string]func() (string, error){
		"a response": func() (string, error) { return keyrack.JSON(map[string]string{"Principal": hostile}) },
		"a record":   func() (string, error) { return keyrack.JSONRecord(record) },
	} {
		text, err := print()
		if err != nil {
			t.Fatal(err)
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s has a control character: %q", name, text[i:])
		}
		var back struct{ Principal string }
		if err := json.Unmarshal([]byte(text), &back); err != nil || back.Principal != hostile {
			t.Errorf("%s says %q, %v", name, back.Principal, err)
		}
		if !strings.Contains(text, "é€\U0001f511") {
			t.Errorf("%s escapes what people read: %s", name, text)
		}
	}
}

// TestCompletionTypesNoCommands: bash puts what an appliance calls its keys into the
// line that is being typed.
func TestCompletionTypesNoCommands(t *testing.T) {
	t.Parallel()
	good := []string{"alias/mail-2/x_Y", "1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:kms:rack-1:111122223333:alias/a", "ann+b=c,d.e@f"}
	bad := []string{"alias/a;id", "$(id)", "`id`", "a b", "a|b", "a>b", "a&b", "'a", "\"a", "a\\", "~", "a*", "{a}", "!!", "#a", "a\nid", "é", "--socket=/x", ":files"}
	if left, err := keyrack.Typable(append(bad, good...)...); err != nil || !slices.Equal(left, good) {
		t.Errorf("a shell is given %q, %v", left, err)
	}
}

// TestRecordOfALaterVersion is shown as far as it is understood.
func TestRecordOfALaterVersion(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		record audit.Record
		want   string
	}{
		"operation": {audit.Record{Op: 0xfff0, Principal: "p", Request: []byte{0xa1, 1, 2}}, "operation 65520  ok  p"},
		"member":    {audit.Record{Op: kmsapi.Encrypt.Number, Request: []byte{0xa1, 0x18, 60, 2}}, `"member 60"=…`},
		"enum":      {audit.Record{Op: kmsapi.Encrypt.Number, Request: []byte{0xa1, 5, 0x19, 1, 1}}, `EncryptionAlgorithm=""`},
		"none":      {audit.Record{Credential: [32]byte{1}}, "(connection)  ok  sha256:01"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line, err := keyrack.FormatRecord(audit.AppendRecord(nil, &r.record))
			if err != nil || !strings.Contains(line, r.want) {
				t.Errorf("printed %q, %v; want %q in it", line, err, r.want)
			}
		})
	}
	if line, err := keyrack.FormatRecord([]byte{0xa1, 1, 2}); err == nil {
		t.Errorf("a broken record printed %q", line)
	}
}
