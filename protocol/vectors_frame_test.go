package protocol_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/protocol"
)

// unhexSpaced decodes hex digits that are grouped for people.
func unhexSpaced(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// framed puts the length before what a frame holds.
func framed(content []byte) []byte {
	n := len(content)
	return append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, content...)
}

// Requests of GetStatus (1281, no members) and of Encrypt (258), as far as the
// operation; the body and the options follow.
const status, encrypt = "8401190501", "8401190102"

func makeFrames(_ *testing.T, m *maker) {
	makeGoodFrames(m)
	makeCutFrames(m)
	for _, bad := range badEnvelopes {
		m.add(named(bad[0]).with("frame", framed(unhexSpaced(bad[1]))).with("scope", "connection").with("expect", api.KindSerialization))
	}
	for _, bad := range badBodies {
		m.add(named(bad[0]).with("frame", framed(unhexSpaced(bad[1]))).with("scope", "request").with("expect", api.KindSerialization))
	}
}

func makeGoodFrames(m *maker) {
	for _, good := range []struct {
		name, body string
		id         uint64
		op         int
	}{
		{"smallest", "a0", 1, 1281},
		{"id-in-one-byte", "a0", 23, 1281},
		{"id-in-two-bytes", "a0", 24, 1281},
		{"id-in-nine-bytes", "a0", math.MaxUint64, 1281},
		{"with-members", "a2 01 67 616c6961732f61 02 41 00", 7, 258},
	} {
		content := cbor.AppendUint(cbor.AppendUint([]byte{0x84}, good.id), uint64(good.op))
		content = append(append(content, unhexSpaced(good.body)...), 0xa0)
		m.add(named(good.name).with("frame", framed(content)).with("id", good.id).with("op", good.op).
			with("body", unhexSpaced(good.body)).with("rest", []byte{}).with("expect", "ok"))
	}
	first, second := framed(unhexSpaced(status+"a0a0")), framed(unhexSpaced("8402190501a0a0"))
	m.add(named("two-frames").with("frame", slices.Concat(first, second)).with("id", 1).with("op", 1281).
		with("body", []byte{0xa0}).with("rest", second).with("expect", "ok"))
}

// makeCutFrames makes beginnings of frames. need is how many bytes must have
// arrived before it is worth looking again, the length included.
func makeCutFrames(m *maker) {
	for _, cut := range []struct {
		name, bytes string
		need        int
	}{
		{"no-bytes", "", 4}, {"half-a-length", "000000", 4}, {"length-only", "00000007", 11},
		{"last-byte-missing", "00000007 8401190501a0", 11}, {"longest", "00020000 84", 131_076},
	} {
		m.add(named(cut.name).with("frame", unhexSpaced(cut.bytes)).with("need", cut.need).with("expect", "more"))
	}
	for _, long := range [][2]string{{"a-byte-too-long", "00020001"}, {"longest-length", "ffffffff"}} {
		m.add(named(long[0]).with("frame", unhexSpaced(long[1])).with("scope", "connection").with("expect", api.KindRequestTooLarge))
	}
}

// badEnvelopes have no id to answer to.
var badEnvelopes = [][2]string{
	{"empty", ""},
	{"not-an-array", "a0"},
	{"three-items", "83 01 190501 a0"},
	{"five-items", "85 01 190501 a0 a0 a0"},
	{"count-not-shortest", "9804 01 190501 a0 a0"},
	{"indefinite-array", "9f 01 190501 a0 a0 ff"},
	{"tagged", "d9d9f7 84 01 190501 a0 a0"},
	{"id-zero", "84 00 190501 a0 a0"},
	{"id-negative", "84 20 190501 a0 a0"},
	{"id-not-shortest", "84 1801 190501 a0 a0"},
	{"id-text", "84 6131 190501 a0 a0"},
	{"id-float", "84 f93c00 190501 a0 a0"},
	{"id-bignum", "84 c24101 190501 a0 a0"},
	{"id-reserved-head", "84 1c 190501 a0 a0"},
	{"id-cut-off", "84 1b 00000000"},
	{"op-missing", "84 01"},
	{"op-negative", "84 01 390500 a0 a0"},
	{"op-not-shortest", "84 01 1a00000501 a0 a0"},
	{"op-larger-than-16-bits", "84 01 1a00010000 a0 a0"},
}

// badBodies can be answered: the envelope is right as far as the operation.
var badBodies = [][2]string{
	{"nothing-behind-the-operation", status},
	{"options-missing", status + "a0"},
	{"options-not-a-map", status + "a0 80"},
	{"option-unknown", status + "a0 a1 01 01"},
	{"option-unknown-empty-map", status + "a0 a1 01 a0"},
	{"body-an-array", status + "80 a0"},
	{"body-null", status + "f6 a0"},
	{"byte-behind-the-options", status + "a0 a0 00"},
	{"map-behind-the-options", status + "a0 a0 a0"},
	{"nested-nine-deep", status + "a1 01 8181818181818101 a1 01 81818181 8181818101"},
	{"keys-out-of-order", encrypt + "a2 02 4100 01 67616c6961732f61 a0"},
	{"key-twice", encrypt + "a3 01 67616c6961732f61 02 4100 02 4100 a0"},
	{"key-not-shortest", encrypt + "a2 1801 67616c6961732f61 02 4100 a0"},
	{"key-text", encrypt + "a2 01 67616c6961732f61 6132 4100 a0"},
	{"key-negative", encrypt + "a3 01 67616c6961732f61 02 4100 20 01 a0"},
	{"indefinite-map", encrypt + "bf 01 67616c6961732f61 02 4100 ff a0"},
	{"indefinite-bytes", encrypt + "a2 01 67616c6961732f61 02 5f4100ff a0"},
	{"indefinite-array-of-tokens", encrypt + "a3 01 67616c6961732f61 02 4100 04 9fff a0"},
	{"length-not-shortest", encrypt + "a2 01 67616c6961732f61 02 580100 a0"},
	{"value-null", encrypt + "a3 01 67616c6961732f61 02 4100 04 f6 a0"},
	{"value-undefined", encrypt + "a3 01 67616c6961732f61 02 4100 04 f7 a0"},
	{"value-float", encrypt + "a3 01 67616c6961732f61 02 4100 05 f93c00 a0"},
	{"value-tagged", encrypt + "a2 01 67616c6961732f61 02 d64100 a0"},
	{"boolean-in-two-bytes", encrypt + "a3 01 67616c6961732f61 02 4100 06 f815 a0"},
	{"text-not-utf-8", encrypt + "a2 01 67616c6961732fff 02 4100 a0"},
	{"bytes-longer-than-the-frame", encrypt + "a2 01 67616c6961732f61 02 5affffffff 00 a0"},
	{"more-pairs-than-bytes", encrypt + "bbffffffffffffffff 01 a0"},
	{"more-items-than-bytes", encrypt + "a3 01 67616c6961732f61 02 4100 04 9affffffff a0"},
}

// serve says how a server takes bytes: the outcome, and whether it concerns the
// request or the whole connection.
func serve(b []byte) (got, scope string, req protocol.Request, rest []byte, need int) {
	frame, rest, need, err := protocol.Split(b, api.MaxRequestFrame)
	switch {
	case errors.Is(err, protocol.ErrFrameTooLarge):
		return api.KindRequestTooLarge.String(), "connection", req, rest, need
	case frame == nil:
		return "more", "", req, rest, need
	}
	req, err = protocol.ParseRequest(frame)
	if err != nil && req.ID == 0 {
		return api.KindSerialization.String(), "connection", req, rest, need
	}
	op := table.ByNumber(req.Op)
	switch {
	case err != nil:
		err = api.Errorf(api.KindSerialization, "%v", err)
	case op == nil:
		err = api.Errorf(api.KindUnknownOperation, "operation %d", req.Op)
	default:
		err = protocol.Native{}.Decode(op, req.Body, op.NewIn(), nil)
	}
	return outcome(err), "request", req, rest, need
}

func checkFrame(t *testing.T, v *vector) {
	got, scope, req, rest, need := serve(v.bytes(t, "frame"))
	expectOutcome(t, v, got)
	switch got {
	case "ok":
		if uint64(req.ID) != v.number(t, "id") || uint64(req.Op) != v.number(t, "op") {
			t.Errorf("id %d, operation %d, want %s, %s", req.ID, req.Op, v.text("id"), v.text("op"))
		}
		expectLine(t, v, "body", req.Body)
		expectLine(t, v, "rest", rest)
	case "more":
		if uint64(need) != v.number(t, "need") {
			t.Errorf("needs %d bytes, want %s", need, v.text("need"))
		}
	default:
		if scope != v.text("scope") {
			t.Errorf("the error concerns the %s, want %s", scope, v.text("scope"))
		}
	}
}

// requestVector is a vector of op's request in, as a client sends it.
func requestVector(name string, id api.RequestID, op *api.Op, in any) vector {
	return rawVector(name, op, id, protocol.AppendRequest(nil, id, op, in)).with("expect", "ok")
}

func rawVector(name string, op *api.Op, id api.RequestID, frame []byte) vector {
	return named(name).with("op", op.Number).with("id", uint64(id)).with("frame", frame).with("diag", diagnose(frame[4:]))
}

func makeRequests(t *testing.T, m *maker) {
	example := m.kept["messages.txt/one-pair"]
	keyRef := func(s string) api.KeyRef { return api.ParseKeyRef([]byte(s)) }
	key := keyRef(api.KeyID(example.bytes(t, "key-id")).String())
	context := api.EncryptionContext(example.bytes(t, "context"))
	blob := api.Blob(example.bytes(t, "blob"))
	for i, good := range []struct {
		name string
		op   *api.Op
		in   any
	}{
		{"encrypt", kmsapi.Encrypt.Op, &kmsapi.EncryptRequest{KeyId: key, Plaintext: example.bytes(t, "plaintext"), EncryptionContext: context}},
		{"encrypt-every-member", kmsapi.Encrypt.Op, &kmsapi.EncryptRequest{KeyId: keyRef("arn:aws:kms:rack-1:000000000042:alias/billing"), Plaintext: []byte{0},
			EncryptionContext: context, GrantTokens: []string{"one", "two"}, EncryptionAlgorithm: kmsapi.SymmetricDefault, DryRun: true}},
		{"encrypt-longest-plaintext", kmsapi.Encrypt.Op, &kmsapi.EncryptRequest{KeyId: keyRef("alias/billing"), Plaintext: make([]byte, api.MaxPlaintext)}},
		{"decrypt", kmsapi.Decrypt.Op, &kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: context}},
		{"decrypt-with-key", kmsapi.Decrypt.Op, &kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: context, KeyId: key}},
		{"decrypt-dry-run", kmsapi.Decrypt.Op, &kmsapi.DecryptRequest{KeyId: key, DryRun: true, DryRunModifiers: []kmsapi.DryRunModifier{kmsapi.IgnoreCiphertext}}},
		{"create-key", kmsapi.CreateKey.Op, &kmsapi.CreateKeyRequest{}},
		{"create-key-described", kmsapi.CreateKey.Op, &kmsapi.CreateKeyRequest{Description: "für Rechnungen", KeyUsage: kmsapi.UsageEncryptDecrypt,
			KeySpec: kmsapi.KeySpecSymmetricDefault, Tags: []kmsapi.Tag{{TagKey: "team", TagValue: "billing"}}}},
		{"get-status", applianceapi.GetStatus.Op, &applianceapi.GetStatusRequest{}},
		{"list-audit-records", applianceapi.ListAuditRecords.Op, &applianceapi.ListAuditRecordsRequest{From: -10, Limit: 10}},
		{"get-audit-checkpoint", applianceapi.GetAuditCheckpoint.Op, &applianceapi.GetAuditCheckpointRequest{}},
		{"get-audit-consistency", applianceapi.GetAuditConsistency.Op, &applianceapi.GetAuditConsistencyRequest{OldSize: 1_000_000}},
		{"unlock", applianceapi.Unlock.Op, &applianceapi.UnlockRequest{}},
		{"lock", applianceapi.Lock.Op, &applianceapi.LockRequest{}},
		{"rotate-domain-key", applianceapi.RotateDomainKey.Op, &applianceapi.RotateDomainKeyRequest{}},
		{"check-records", applianceapi.CheckRecords.Op, &applianceapi.CheckRecordsRequest{Report: true}},
		{"add-principal", applianceapi.AddPrincipal.Op, &applianceapi.AddPrincipalRequest{Name: "web", Account: "000000000042", KeyHash: exampleKeyHash}},
		{"list-principals", applianceapi.ListPrincipals.Op, &applianceapi.ListPrincipalsRequest{Limit: 1000, Marker: "web"}},
		{"remove-principal", applianceapi.RemovePrincipal.Op, &applianceapi.RemovePrincipalRequest{Name: "web"}},
		{"search-audit-records", applianceapi.SearchAuditRecords.Op, &applianceapi.SearchAuditRecordsRequest{From: 1, Until: 1_000_000, Limit: 10, After: 1_700_000_000_000_000, Before: 1_700_000_000_000_001,
			Operations: []int64{0, 1282}, Errors: []int64{0, 5}, Who: []string{"web"}, Resource: "alias/billing", Source: "192.0.2.1", RequestId: 7}},
		{"list-slots", applianceapi.ListSlots.Op, &applianceapi.ListSlotsRequest{}},
		{"get-clock", applianceapi.GetClock.Op, &applianceapi.GetClockRequest{}},
		{"accept-clock", applianceapi.AcceptClock.Op, &applianceapi.AcceptClockRequest{Preview: true}},
		{"shred-deleted-keys", applianceapi.ShredDeletedKeys.Op, &applianceapi.ShredDeletedKeysRequest{}},
	} {
		m.add(requestVector(good.name, api.RequestID(i+7), good.op, good.in))
	}
	makeBadRequests(m)
	makeKeyRequests(m, key)
	makeDataKeyRequests(m, key, blob, context)
	makeSignRequests(m, key)
	makeLifeRequests(m, key)
}

// makeKeyRequests makes requests that manage a key and its names.
func makeKeyRequests(m *maker, key api.KeyRef) {
	for i, good := range []struct {
		name string
		op   *api.Op
		in   any
	}{
		{"describe-key", kmsapi.DescribeKey.Op, &kmsapi.DescribeKeyRequest{KeyId: api.ParseKeyRef([]byte("alias/billing"))}},
		{"list-keys", kmsapi.ListKeys.Op, &kmsapi.ListKeysRequest{}},
		{"list-keys-page", kmsapi.ListKeys.Op, &kmsapi.ListKeysRequest{Limit: 1000, Marker: "AQ"}},
		{"enable-key", kmsapi.EnableKey.Op, &kmsapi.EnableKeyRequest{KeyId: key}},
		{"disable-key", kmsapi.DisableKey.Op, &kmsapi.DisableKeyRequest{KeyId: key}},
		{"create-alias", kmsapi.CreateAlias.Op, &kmsapi.CreateAliasRequest{AliasName: "alias/billing", TargetKeyId: key}},
		{"update-alias", kmsapi.UpdateAlias.Op, &kmsapi.UpdateAliasRequest{AliasName: "alias/billing", TargetKeyId: key}},
		{"delete-alias", kmsapi.DeleteAlias.Op, &kmsapi.DeleteAliasRequest{AliasName: "alias/billing"}},
		{"list-aliases", kmsapi.ListAliases.Op, &kmsapi.ListAliasesRequest{KeyId: key, Limit: 10}},
		{"update-key-description", kmsapi.UpdateKeyDescription.Op, &kmsapi.UpdateKeyDescriptionRequest{KeyId: key, Description: "für Rechnungen"}},
		{"update-key-description-to-none", kmsapi.UpdateKeyDescription.Op, &kmsapi.UpdateKeyDescriptionRequest{KeyId: key}},
		{"tag-resource", kmsapi.TagResource.Op, &kmsapi.TagResourceRequest{KeyId: key, Tags: []kmsapi.Tag{{TagKey: "team", TagValue: "billing"}, {TagKey: "old"}}}},
		{"untag-resource", kmsapi.UntagResource.Op, &kmsapi.UntagResourceRequest{KeyId: key, TagKeys: []string{"team", "old"}}},
		{"list-resource-tags", kmsapi.ListResourceTags.Op, &kmsapi.ListResourceTagsRequest{KeyId: key, Limit: 50, Marker: "AQ"}},
	} {
		m.add(requestVector(good.name, api.RequestID(i+30), good.op, good.in))
	}
	for _, bad := range []badRequest{
		{"enable-key-by-alias", kmsapi.EnableKey.Op, map[int]any{1: "alias/billing"}, api.KindNotFound},
		{"enable-key-by-alias-arn", kmsapi.EnableKey.Op, map[int]any{1: "arn:aws:kms:rack-1:000000000042:alias/billing"}, api.KindNotFound},
		{"alias-of-an-alias", kmsapi.CreateAlias.Op, map[int]any{1: "alias/billing", 2: "alias/bills"}, api.KindValidation},
		{"alias-without-prefix", kmsapi.DeleteAlias.Op, map[int]any{1: "billing"}, api.KindValidation},
		{"alias-with-a-space", kmsapi.DeleteAlias.Op, map[int]any{1: "alias/a b"}, api.KindValidation},
		{"limit-zero", kmsapi.ListKeys.Op, map[int]any{1: 0}, api.KindValidation},
		{"tag-by-alias", kmsapi.TagResource.Op, map[int]any{1: "alias/billing", 2: []any{map[int]any{1: "team", 2: ""}}}, api.KindNotFound},
		{"tag-none", kmsapi.TagResource.Op, map[int]any{1: "alias/billing", 2: []any{}}, api.KindValidation},
		{"tag-without-value", kmsapi.TagResource.Op, map[int]any{1: "alias/billing", 2: []any{map[int]any{1: "team"}}}, api.KindValidation},
		{"untag-empty-key", kmsapi.UntagResource.Op, map[int]any{1: "alias/billing", 2: []any{""}}, api.KindValidation},
		{"limit-too-large", kmsapi.ListAliases.Op, map[int]any{2: 101}, api.KindValidation},
	} {
		m.add(rawVector(bad.name, bad.op, 1, rawRequest(bad.op.Number, bad.members)).with("expect", bad.expect))
	}
}

// makeBadRequests makes requests that no encoder of ours writes; the first is
// good all the same, it only says what it need not say.
func makeBadRequests(m *maker) {
	short := &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte("alias/a")), Plaintext: []byte{0}, EncryptionContext: api.NewEncryptionContext(nil)}
	long := map[int]any{1: "alias/a", 2: []byte{0}, 3: contextMap{}, 4: []any{}, 5: 1, 6: false}
	m.add(rawVector("defaults-spelled-out", kmsapi.Encrypt.Op, 1, rawRequest(kmsapi.Encrypt.Op.Number, long)).
		with("same-as", protocol.AppendRequest(nil, 1, kmsapi.Encrypt.Op, short)).with("expect", "ok"))
	m.add(named("operation-unknown").with("op", 65_535).with("id", 1).with("frame", rawRequest(0xffff, nil)).with("diag", "[1, 65535, {}, {}]").
		with("expect", api.KindUnknownOperation))
	for _, bad := range badRequests() {
		m.add(rawVector(bad.name, bad.op, 1, rawRequest(bad.op.Number, bad.members)).with("expect", bad.expect))
	}
}

type badRequest struct {
	name    string
	op      *api.Op
	members map[int]any
	expect  api.Kind
}

func badRequests() []badRequest {
	e, d, c, l := kmsapi.Encrypt.Op, kmsapi.Decrypt.Op, kmsapi.CreateKey.Op, applianceapi.ListAuditRecords.Op
	const form, rule = api.KindSerialization, api.KindValidation
	one := []byte{0}
	tokens := make([]any, 11)
	for i := range tokens {
		tokens[i] = "t"
	}
	return []badRequest{
		{"member-unknown", e, map[int]any{1: "alias/a", 2: one, 7: true}, form},
		{"member-zero", e, map[int]any{0: 1, 1: "alias/a", 2: one}, form},
		{"text-for-bytes", e, map[int]any{1: "alias/a", 2: "text"}, form},
		{"bytes-for-text", e, map[int]any{1: []byte("alias/a"), 2: one}, form},
		{"number-for-boolean", e, map[int]any{1: "alias/a", 2: one, 6: 1}, form},
		{"name-for-enum", e, map[int]any{1: "alias/a", 2: one, 5: "SYMMETRIC_DEFAULT"}, form},
		{"text-for-list", e, map[int]any{1: "alias/a", 2: one, 4: "token"}, form},
		{"list-for-context", e, map[int]any{1: "alias/a", 2: one, 3: []any{}}, form},
		{"integer-of-more-than-64-bits", l, map[int]any{1: uint64(1 << 63)}, form},
		{"members-missing", e, nil, rule},
		{"plaintext-missing", e, map[int]any{1: "alias/a"}, rule},
		{"plaintext-empty", e, map[int]any{1: "alias/a", 2: []byte{}}, rule},
		{"plaintext-too-long", e, map[int]any{1: "alias/a", 2: make([]byte, api.MaxPlaintext+1)}, rule},
		{"key-empty", e, map[int]any{1: "", 2: one}, rule},
		{"key-too-long", e, map[int]any{1: strings.Repeat("k", 2049), 2: one}, rule},
		{"too-many-items", e, map[int]any{1: "alias/a", 2: one, 4: tokens}, rule},
		{"item-empty", e, map[int]any{1: "alias/a", 2: one, 4: []any{""}}, rule},
		{"enum-zero", e, map[int]any{1: "alias/a", 2: one, 5: 0}, rule},
		{"enum-beyond-its-list", e, map[int]any{1: "alias/a", 2: one, 5: 5}, rule},
		{"ciphertext-too-long", d, map[int]any{1: make([]byte, api.MaxCiphertext+1)}, rule},
		{"ciphertext-missing", d, nil, rule},
		{"modifier-without-dry-run", d, map[int]any{4: "alias/a", 8: []any{1}}, rule},
		{"member-and-its-deprecated-twin", c, map[int]any{4: 1, 5: 1}, rule},
		{"number-beyond-its-range", l, map[int]any{2: 1001}, rule},
		{"number-below-its-range", l, map[int]any{2: -1}, rule},
	}
}

// contextMap stands for an encryption context in members.
type contextMap map[string]string

// rawRequest is a whole request with id 1 of members that no struct need have.
func rawRequest(op uint16, members map[int]any) []byte {
	b := cbor.AppendUint([]byte{0x84, 1}, uint64(op))
	return framed(append(appendAny(b, members), 0xa0))
}

func appendAny(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return cbor.AppendText(b, v)
	case []byte:
		return cbor.AppendBytes(b, v)
	case bool:
		return cbor.AppendBool(b, v)
	case int:
		return cbor.AppendInt(b, int64(v))
	case uint64:
		return cbor.AppendUint(b, v)
	case contextMap:
		return append(b, api.NewEncryptionContext(v)...)
	case map[int]any:
		b = cbor.AppendMap(b, len(v))
		for n := range 64 {
			if member, ok := v[n]; ok {
				b = appendAny(cbor.AppendUint(b, uint64(n)), member)
			}
		}
		return b
	case []any:
		b = cbor.AppendArray(b, len(v))
		for _, item := range v {
			b = appendAny(b, item)
		}
		return b
	}
	panic(fmt.Sprintf("no encoding for %T", v))
}

func checkRequest(t *testing.T, v *vector) {
	got, _, req, _, _ := serve(v.bytes(t, "frame"))
	expectOutcome(t, v, got)
	if uint64(req.ID) != v.number(t, "id") {
		t.Errorf("id %d, want %s", req.ID, v.text("id"))
	}
	if uint64(req.Op) != v.number(t, "op") {
		t.Errorf("operation %d, want %s", req.Op, v.text("op"))
	}
	if got == "ok" {
		checkEncoder(t, v, table.ByNumber(req.Op), req)
	}
}

// checkEncoder checks that a client of ours sends the request as it stands.
func checkEncoder(t *testing.T, v *vector, op *api.Op, req protocol.Request) {
	t.Helper()
	want := v.bytes(t, "frame")
	if v.has("same-as") {
		want = v.bytes(t, "same-as")
	}
	if again := protocol.AppendRequest(nil, req.ID, op, asSent(t, op, req.Body)); !bytes.Equal(again, want) {
		t.Errorf("our encoder writes\n%x, want\n%x", again, want)
	}
}

// asSent decodes a request as the client had it: the decoder fills in defaults,
// which a client leaves out. A default that a client did spell out is lost.
func asSent(t *testing.T, op *api.Op, body []byte) any {
	t.Helper()
	in := op.NewIn()
	if err := (protocol.Native{}).Decode(op, body, in, nil); err != nil {
		t.Fatal(err)
	}
	spelled := op.In.AppendCBOR(nil, in)
	if bytes.Equal(spelled, body) {
		return in
	}
	for _, f := range op.In.Fields {
		if f.Default != 0 {
			reflect.ValueOf(in).Elem().FieldByName(f.Name).SetZero()
		}
	}
	return in
}

func makeReplies(t *testing.T, m *maker) {
	example := m.kept["messages.txt/one-pair"]
	id := api.KeyID(example.bytes(t, "key-id"))
	arn := api.Realm{Partition: "aws", Region: "rack-1"}.KeyARN(api.AccountID([]byte("000000000042")), id, false)
	materialID := example.text("key-material-id")
	at := api.TimeOf(time.Date(2027, 1, 31, 12, 0, 0, 123_456_000, time.UTC))
	web := applianceapi.Principal{Name: "web", Account: "000000000042", KeyHash: exampleKeyHash, Arn: "arn:aws:iam::000000000042:root", CreationDate: at}
	for _, good := range []struct {
		name string
		op   *api.Op
		out  any
	}{
		{"encrypt", kmsapi.Encrypt.Op, &kmsapi.EncryptResponse{CiphertextBlob: example.bytes(t, "blob"), KeyId: arn, EncryptionAlgorithm: 1}},
		{"decrypt", kmsapi.Decrypt.Op, &kmsapi.DecryptResponse{KeyId: arn, Plaintext: example.bytes(t, "plaintext"), EncryptionAlgorithm: 1, KeyMaterialId: materialID}},
		{"create-key", kmsapi.CreateKey.Op, &kmsapi.CreateKeyResponse{KeyMetadata: kmsapi.KeyMetadata{AWSAccountId: "000000000042", KeyId: id.String(), Arn: arn,
			CreationDate: at, Enabled: true, KeyUsage: 1, KeyState: 1, Origin: 1, KeyManager: 2, CustomerMasterKeySpec: 1, KeySpec: 1,
			EncryptionAlgorithms: []kmsapi.EncryptionAlgorithm{1}, CurrentKeyMaterialId: materialID}}},
		{"get-status", applianceapi.GetStatus.Op, &applianceapi.GetStatusResponse{ApplianceId: id.String(), State: applianceapi.Unlocked, StartTime: at,
			Connections: 3, Warnings: []string{"memory is not locked"}}},
		{"get-audit-checkpoint", applianceapi.GetAuditCheckpoint.Op, &applianceapi.GetAuditCheckpointResponse{Checkpoint: checkpoint, Key: "keyrack.local+00000000+AgID"}},
		{"get-audit-consistency", applianceapi.GetAuditConsistency.Op, &applianceapi.GetAuditConsistencyResponse{Checkpoint: checkpoint, Proof: []api.Blob{make([]byte, 32)}}},
		{"list-audit-records", applianceapi.ListAuditRecords.Op, &applianceapi.ListAuditRecordsResponse{From: 11, Records: []api.Blob{{0xa0}, {0xa0}}, Next: 13}},
		{"search-audit-records", applianceapi.SearchAuditRecords.Op, &applianceapi.SearchAuditRecordsResponse{Records: []api.Blob{{0xa0}, {0xa0}}, Positions: []int64{3, 8},
			Next: 10, Until: 12, Read: 9, Earliest: at, Latest: at + 1}},
		{"list-audit-records-none", applianceapi.ListAuditRecords.Op, &applianceapi.ListAuditRecordsResponse{From: 12, Next: 12}},
		{"get-status-locked", applianceapi.GetStatus.Op, &applianceapi.GetStatusResponse{ApplianceId: id.String(), State: applianceapi.Locked, StartTime: at}},
		{"list-slots", applianceapi.ListSlots.Op, &applianceapi.ListSlotsResponse{Authentic: true, Slots: []applianceapi.Slot{{
			SlotId: id.String(), Type: applianceapi.SlotToken, TokenKind: "tpm2", TokenSerial: "000b5e", Version: 3, InToken: true, Open: true}}}},
		{"get-clock", applianceapi.GetClock.Op, &applianceapi.GetClockResponse{SystemClock: at + 3, AcceptedTime: at + 2, Floor: at, Leash: at + 4, Believed: true, PoweredSeconds: 86_400}},
		{"accept-clock", applianceapi.AcceptClock.Op, &applianceapi.AcceptClockResponse{Before: at, AcceptedTime: at + 9, Due: []string{"key " + id.String() + " gets a new material"}}},
		{"shred-deleted-keys", applianceapi.ShredDeletedKeys.Op, &applianceapi.ShredDeletedKeysResponse{Keys: 2, Version: 3}},
		{"unlock", applianceapi.Unlock.Op, &applianceapi.UnlockResponse{State: applianceapi.Unlocked}},
		{"lock", applianceapi.Lock.Op, &applianceapi.LockResponse{}},
		{"rotate-domain-key", applianceapi.RotateDomainKey.Op, &applianceapi.RotateDomainKeyResponse{Version: 2}},
		{"check-records", applianceapi.CheckRecords.Op, &applianceapi.CheckRecordsResponse{State: applianceapi.CheckFailed, Done: 3, Total: 4,
			Problems: []string{"record alias/000000000042/billing is not what was written"}, Generation: 12, StartTime: at}},
		{"add-principal", applianceapi.AddPrincipal.Op, &applianceapi.AddPrincipalResponse{Principal: web}},
		{"list-principals", applianceapi.ListPrincipals.Op, &applianceapi.ListPrincipalsResponse{Principals: []applianceapi.Principal{web}, NextMarker: "web"}},
		{"remove-principal", applianceapi.RemovePrincipal.Op, &applianceapi.RemovePrincipalResponse{Principal: web}},
	} {
		frame := protocol.Native{}.AppendReply(nil, good.op, 7, good.out, nil)
		m.add(replyVector(good.name, good.op.Number, 7, frame).with("expect", "ok"))
	}
	makeErrorReplies(m)
	makeHellos(m)
	makeKeyReplies(m, id, arn, at)
	makeDataKeyReplies(m, arn, materialID, example.bytes(t, "blob"), example.bytes(t, "plaintext"))
	makeSignReplies(m, arn)
	makeLifeReplies(m, arn, materialID)
}

// exampleKeyHash is the hash of a client's key.
const exampleKeyHash = "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func replyVector(name string, of any, id int, frame []byte) vector {
	return named(name).with("of", of).with("id", id).with("frame", frame).with("diag", diagnose(frame[4:]))
}

func makeErrorReplies(m *maker) {
	for _, bad := range []struct {
		name string
		id   api.RequestID
		err  api.Error
	}{
		{"error-bare", 7, api.Error{Kind: api.KindInvalidCiphertext}},
		{"error-with-message", 7, api.Error{Kind: api.KindAccessDenied, Message: "you are not allowed to access the key"}},
		{"error-with-pause", 7, api.Error{Kind: api.KindThrottling, Message: "slow down", RetryAfter: 250 * time.Millisecond}},
		{"error-with-reason", 7, api.Error{Kind: api.KindUnavailable, Message: "the audit log is full", Reason: "audit"}},
		{"error-of-the-connection", 0, api.Error{Kind: api.KindRequestTooLarge, Message: "frame is larger than allowed"}},
	} {
		m.add(replyVector(bad.name, kmsapi.Decrypt.Number, int(bad.id), protocol.AppendError(nil, bad.id, &bad.err)).with("expect", bad.err.Kind))
	}
	for _, other := range [][3]string{
		{"error-with-unknown-member", "83 07 0d a2 01 6464616d70 04 81 01", api.KindInvalidCiphertext.String()},
		{"error-of-a-later-version", "83 07 18c8 a1 01 636e6577", "200"},
		{"two-items", "82 07 00", "malformed"},
		{"four-items", "84 07 00 a0 a0", "malformed"},
		{"kind-of-more-than-a-byte", "83 07 190100 a0", "malformed"},
		{"error-with-text-for-pause", "83 07 06 a1 02 6131", "malformed"},
		{"error-without-map", "83 07 06 80", "malformed"},
		{"response-without-map", "83 07 00 80", "malformed"},
	} {
		m.add(replyVector(other[0], kmsapi.Decrypt.Number, 7, framed(unhexSpaced(other[1]))).with("expect", other[2]))
	}
	m.add(named("too-long").with("of", kmsapi.Decrypt.Number).with("id", 7).with("frame", unhexSpaced("00100001")).with("expect", "malformed"))
}

// checkpoint has the form of one; nobody signed it.
const checkpoint = "keyrack.local/6f1c9a52-3d0b-4a7e-9c58-0e1d2f3a4b5c\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— keyrack.local AAAAAA==\n"

func makeHellos(m *maker) {
	h := protocol.Hello{ApplianceId: "6f1c9a52-3d0b-4a7e-9c58-0e1d2f3a4b5c", Version: "1.0.0", Window: 1024}
	m.add(replyVector("hello", "hello", 0, protocol.AppendHello(nil, &h)).with("expect", "ok"))
	h.Checkpoint = checkpoint
	m.add(replyVector("hello-with-checkpoint", "hello", 0, protocol.AppendHello(nil, &h)).with("expect", "ok"))
	refused := api.Errorf(api.KindUnrecognizedClient, "no principal is registered for this client's key")
	m.add(replyVector("hello-refused", "hello", 0, protocol.AppendError(nil, 0, refused)).with("expect", refused.Kind))
}

// receive says how a client takes a reply and returns how we would write it.
func receive(t *testing.T, v *vector, frame []byte) (got string, again []byte) {
	t.Helper()
	p, err := protocol.ParseReply(frame)
	if err != nil {
		return "malformed", nil
	}
	if uint64(p.ID) != v.number(t, "id") {
		t.Errorf("id %d, want %s", p.ID, v.text("id"))
	}
	if err := p.Err(); err != nil {
		return takeError(p.ID, err)
	}
	if v.text("of") == "hello" {
		h, err := protocol.ParseHello(frame)
		if err != nil {
			return "malformed", nil
		}
		return "ok", protocol.AppendHello(nil, h)
	}
	op := table.ByNumber(uint16(v.number(t, "of")))
	out := op.NewOut()
	if err := op.Out.DecodeCBOR(p.Body, out); err != nil {
		return "malformed", nil
	}
	return "ok", protocol.Native{}.AppendReply(nil, op, p.ID, out, nil)
}

func takeError(id api.RequestID, err error) (got string, again []byte) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return "malformed", nil
	}
	if !e.Kind.Valid() {
		return fmt.Sprint(uint8(e.Kind)), protocol.AppendError(nil, id, e)
	}
	return e.Kind.String(), protocol.AppendError(nil, id, e)
}

func checkReply(t *testing.T, v *vector) {
	b := v.bytes(t, "frame")
	frame, rest, _, err := protocol.Split(b, api.MaxReplyFrame)
	if err != nil || frame == nil || len(rest) > 0 {
		expectOutcome(t, v, "malformed")
		return
	}
	got, again := receive(t, v, frame)
	expectOutcome(t, v, got)
	if again != nil && !bytes.Equal(again, b) && v.name() != "error-with-unknown-member" {
		t.Errorf("our encoder writes\n%x, want\n%x", again, b)
	}
}
