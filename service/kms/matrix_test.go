package kms_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/service/kms"
)

// matrix is the table "Key states of AWS KMS keys" of the AWS KMS developer guide, a row
// a group of operations, with the states in the order of columns and the guide's own footnotes:
// what AWS's page leaves open is answered as for the operations beside it.
var matrix = []struct{ operations, outcomes string }{
	{"Encrypt, Decrypt, ReEncrypt from, ReEncrypt to, GenerateDataKey, GenerateDataKeyWithoutPlaintext, GenerateDataKeyPair, GenerateDataKeyPairWithoutPlaintext", "ok 1 3 3 5 11 14 ok"},
	{"Sign, Verify, GenerateMac, VerifyMac, GetPublicKey, DeriveSharedSecret, Encapsulate, Decapsulate", "ok 1 3 3 5 11 14 ok"},
	{"CreateAlias, UpdateAlias to, UpdateKeyDescription, TagResource, UntagResource", "ok ok 3 3 ok ok ok ok"},
	{"UpdateAlias from, DeleteAlias, ListAliases, DescribeKey, ListResourceTags, GetKeyLastUsage", "ok ok ok ok ok ok ok ok"},
	{"EnableKey, DisableKey", "ok ok 3 3 5 11 14 15"},                // 12: a key that is Unavailable would change once it is back; here none is, ever
	{"ScheduleKeyDeletion", "ok ok 3 3 ok ok ok 15"},                 //
	{"CancelKeyDeletion", "4 4 ok 4 4 4 4 4"},                        // 13 is for custom key stores; no key waits for replicas
	{"EnableKeyRotation, DisableKeyRotation", "ok 1 3 3 7 11 14 ok"}, // 6 is for custom key stores; only a key of imported material waits for it, which 7 is for
	{"GetKeyRotationStatus, ListKeyRotations", "ok ok ok ok ok ok ok ok"},
	{"RotateKeyOnDemand", "ok 1 3 3 5 11 14 15"},
	{"GetParametersForImport", "ok ok 3 3 ok 11 14 15"}, // 8 is said as 3; 9 is for origins
	{"ImportKeyMaterial", "ok ok 3 3 ok 11 14 ok"},
	{"DeleteImportedKeyMaterial", "ok ok ok 3 ok 11 14 15"}, // no key waits for replicas
	{"ReplicateKey", "ok 1 3 3 5 11 14 15"},
	{"UpdatePrimaryRegion", "ok 1 3 3 5 11 14 ok"},
}

// columns are the states of a row, and how a key is brought into one: by an operation, or
// by its row alone where there is none, because it takes a region or a store that is not here.
var columns = []struct {
	state kmsapi.KeyState
	bring func(*tried)
}{
	{kmsapi.StateEnabled, func(*tried) {}},
	{kmsapi.StateDisabled, func(f *tried) { f.must(kmsapi.DisableKey.Op, &kmsapi.DisableKeyRequest{KeyId: ref(f.arn)}) }},
	{kmsapi.StatePendingDeletion, func(f *tried) {
		f.must(kmsapi.ScheduleKeyDeletion.Op, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(f.arn), PendingWindowInDays: 7})
	}},
	{kmsapi.StatePendingReplicaDeletion, nil},
	{kmsapi.StatePendingImport, func(f *tried) {
		f.must(kmsapi.DeleteImportedKeyMaterial.Op, &kmsapi.DeleteImportedKeyMaterialRequest{KeyId: ref(f.arn)})
	}},
	{kmsapi.StateUnavailable, nil},
	{kmsapi.StateCreating, nil},
	{kmsapi.StateUpdating, nil},
}

// footnotes are AWS's answers; %s is the key's ARN. 3 names the state that it is.
var footnotes = map[string]string{
	"ok": "", "1": "DisabledException: %s is disabled.", "3": "KMSInvalidStateException: %s is pending ", "4": "KMSInvalidStateException: %s is not pending deletion",
	"5": "KMSInvalidStateException: %s is pending import.", "7": "UnsupportedOperationException: %s origin is EXTERNAL which is not valid for this operation.", "11": "KMSInvalidStateException: %s is unavailable.", "14": "KMSInvalidStateException: %s is creating.",
	"15": "KMSInvalidStateException: %s is updating.",
}

// refusedAnyway are operations that this appliance refuses once all that AWS checks is right.
var refusedAnyway = map[string]string{
	"ReplicateKey":        "UnsupportedOperationException: ReplicateKey is not supported",
	"UpdatePrimaryRegion": "UnsupportedOperationException: UpdatePrimaryRegion is not supported",
}

// outcomes returns the outcomes of an operation, a footnote a column.
func outcomes(tb testing.TB, operation string) []string {
	tb.Helper()
	for _, row := range matrix {
		if slices.Contains(strings.Split(row.operations, ", "), operation) {
			return strings.Fields(row.outcomes)
		}
	}
	tb.Fatalf("%s has no row", operation)
	return nil
}

// TestStateMatrix tries every operation on a key in every state.
func TestStateMatrix(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d := newDesk(r)
	for _, name := range slices.Sorted(maps.Keys(tries)) {
		try, want := tries[name], outcomes(t, name)
		for i, column := range columns {
			try := try
			if column.state == kmsapi.StatePendingImport {
				try = try.ofImported(kmsapi.ImportKeyMaterialRequest{ExpirationModel: kmsapi.MaterialDoesNotExpire})
			}
			t.Run(name+"/"+column.state.String(), func(t *testing.T) {
				t.Parallel()
				f := newTried(t, d, strings.ReplaceAll(name, " ", "-")+"-"+column.state.String(), &try)
				f.enter(r, i)
				op, in := try.request(f)
				f.wantFootnote(d.serve(t, rootOf(racktest.Account), op, in), want[i], name)
			})
		}
	}
}

// enter brings the key into the state of a column.
func (f *tried) enter(r *racktest.Rack, column int) {
	f.tb.Helper()
	if c := columns[column]; c.bring != nil {
		c.bring(f)
	} else {
		kms.SetState(f.tb, r.KMS(), keyID(f.tb, f.arn), c.state)
	}
	if out := found(f, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(f.arn)}); out.KeyMetadata.KeyState != columns[column].state ||
		out.KeyMetadata.Enabled != (columns[column].state == kmsapi.StateEnabled) {
		f.tb.Fatalf("the key is described as %s, enabled: %t", out.KeyMetadata.KeyState, out.KeyMetadata.Enabled)
	}
}

func (f *tried) wantFootnote(err error, note, name string) {
	f.tb.Helper()
	says, ok := footnotes[note]
	switch {
	case !ok:
		f.tb.Fatalf("there is no footnote %s", note)
	case note == "ok" && refusedAnyway[name] != "":
		wantSays(f.tb, err, refusedAnyway[name])
	case note == "ok":
		wantKind(f.tb, err, api.KindNone)
	default:
		wantSays(f.tb, err, strings.Replace(says, "%s", f.arn, 1))
	}
}

// TestMatrixIsWhole: every operation of the table that takes a key is tried, and every
// one that is tried has a row and every column an outcome.
func TestMatrixIsWhole(t *testing.T) {
	t.Parallel()
	for _, op := range kmsapi.Operations() {
		takesKey := slices.ContainsFunc(op.In.Fields, func(f api.Field) bool { return f.Shape == api.ShapeKeyRef || f.Name == "AliasName" })
		tried := slices.ContainsFunc(slices.Collect(maps.Keys(tries)), func(name string) bool { return strings.Fields(name)[0] == op.Name })
		if takesKey != tried {
			t.Errorf("%s takes a key: %t, is tried: %t", op, takesKey, tried)
		}
	}
	if len(columns) != len(kmsapi.KeyState(0).Names()) {
		t.Errorf("%d states have a column", len(columns))
	}
	for name := range tries {
		if n := len(outcomes(t, name)); n != len(columns) {
			t.Errorf("%s has %d outcomes", name, n)
		}
	}
}

// TestCheckOrder: what is malformed is said before anything is known of the key, and
// who may not use a key does not learn its state.
func TestCheckOrder(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d := newDesk(r)
	const disabled = 1
	for _, name := range slices.Sorted(maps.Keys(tries)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try := tries[name]
			f := newTried(t, d, strings.ReplaceAll(name, " ", "-"), &try)
			f.enter(r, disabled)
			op, in := try.request(f)
			if slices.ContainsFunc(op.In.Fields, func(f api.Field) bool { return f.Shape == api.ShapeKeyRef }) {
				wantKind(t, d.serve(t, rootOf(racktest.Other), op, in), api.KindAccessDenied)
			}
			if broken := breakMember(op, in); broken != "" {
				if err := d.serve(t, rootOf(racktest.Account), op, in); api.KindOf(err) != api.KindValidation || !strings.Contains(err.Error(), broken) {
					t.Errorf("with a %s that is not allowed: %v", broken, err)
				}
			}
			if out := found(f, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(f.arn)}); out.KeyMetadata.KeyState != kmsapi.StateDisabled {
				t.Errorf("a call that was refused has changed the key: it is %s", out.KeyMetadata.KeyState)
			}
		})
	}
}

// breakMember gives a member of a request, other than its keys, a value that the table does not
// allow, and returns how an error calls it, "" if there is no such member.
func breakMember(op *api.Op, in any) string {
	for i := range op.In.Fields {
		f, v := &op.In.Fields[i], reflect.ValueOf(in).Elem().FieldByName(op.In.Fields[i].Name)
		switch {
		case f.Shape == api.ShapeText && f.Max < api.Unbounded:
			v.SetString(strings.Repeat("x", int(f.Max)+1))
		case f.Shape == api.ShapeInt && f.Max < api.Unbounded:
			v.SetInt(f.Max + 1)
		case f.Shape == api.ShapeEnum:
			v.SetUint(uint64(len(f.Names)) + 1)
		case f.Shape == api.ShapeList && f.Elem.Shape == api.ShapeText && f.Items[1] < 1<<20:
			v.Set(reflect.ValueOf(slices.Repeat([]string{"x"}, f.Items[1]+1)))
		default:
			continue
		}
		return f.Member
	}
	return ""
}

// TestUsageBeforeCryptography: a key of another usage is refused whatever the request holds.
func TestUsageBeforeCryptography(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d := newDesk(r)
	for name, try := range tries {
		op := tableOp(t, strings.Fields(name)[0])
		if op.In.Field("DryRun") == nil {
			continue
		}
		wrong := macKey
		if try.in.KeyUsage == macKey.KeyUsage {
			wrong = signKey
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newTried(t, d, strings.ReplaceAll(name, " ", "-"), &try)
			right := f.arn
			out, err := ask(t, d, rootOf(racktest.Account), kmsapi.CreateKey, &wrong)
			if err != nil {
				t.Fatal(err)
			}
			f.arn = out.KeyMetadata.Arn
			op, in := try.request(f)
			want := api.KindInvalidKeyUsage
			if name == "Decrypt" || name == "ReEncrypt from" { // the ciphertext is of another key than the one that is named
				want = api.KindIncorrectKey
			}
			wantKind(t, d.serve(t, rootOf(racktest.Account), op, in), want)
			f.arn = right
		})
	}
}

// tableOp returns an operation by its name.
func tableOp(tb testing.TB, name string) *api.Op {
	tb.Helper()
	for _, op := range kmsapi.Operations() {
		if op.Name == name {
			return op
		}
	}
	tb.Fatal(fmt.Errorf("there is no operation %s", name))
	return nil
}
