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
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/kms"
)

// dry are the operations that AWS lets a caller try without effect (AWS KMS developer guide,
// "Testing your permissions"), but for those of grants.
var dry = []*api.Op{
	kmsapi.Decapsulate.Op, kmsapi.Decrypt.Op, kmsapi.DeriveSharedSecret.Op, kmsapi.Encapsulate.Op, kmsapi.Encrypt.Op,
	kmsapi.GenerateDataKey.Op, kmsapi.GenerateDataKeyPair.Op, kmsapi.GenerateDataKeyPairWithoutPlaintext.Op, kmsapi.GenerateDataKeyWithoutPlaintext.Op,
	kmsapi.GenerateMac.Op, kmsapi.ReEncrypt.Op, kmsapi.Sign.Op, kmsapi.Verify.Op, kmsapi.VerifyMac.Op,
}

// TestDryRuns: each operation says that it would have succeeded, or the error that it would
// have answered, changes nothing and leaves one record.
func TestDryRuns(t *testing.T) {
	t.Parallel()
	for _, op := range kmsapi.Operations() {
		if slices.Contains(dry, op) != (op.In.Field("DryRun") != nil) {
			t.Errorf("%s can be tried: %t", op, op.In.Field("DryRun") != nil)
		}
	}
	tested := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(tries)) {
		if op := tableOp(t, strings.Fields(name)[0]); slices.Contains(dry, op) {
			tested[op.Name] = true
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				dryRun(t, name)
			})
		}
	}
	if len(tested) != len(dry) {
		t.Errorf("%d operations are tried, want %d", len(tested), len(dry))
	}
}

// dryRun tries an operation on an appliance of its own, so that every record is of this test.
func dryRun(t *testing.T, name string) {
	r := racktest.Start(t)
	d, try := newDesk(r), tries[name]
	f := newTried(t, d, strings.ReplaceAll(name, " ", "-"), &try)
	op, in := try.request(f)
	reflect.ValueOf(in).Elem().FieldByName("DryRun").SetBool(true)
	f.wantDry(r, op, in, api.KindDryRun)
	f.wantDry(r, op, in, api.KindDryRun) // the first one has used nothing up

	who := rootOf(racktest.Other)
	wantKind(t, d.serve(t, who, op, in), api.KindAccessDenied)
	f.enter(r, 1)
	f.wantDry(r, op, in, api.KindDisabled)
	f.must(kmsapi.EnableKey.Op, &kmsapi.EnableKeyRequest{KeyId: ref(f.arn)})
	if len(f.secret) > 0 && name != "DeriveSharedSecret" { // what it is to find right is wrong
		f.secret[len(f.secret)-1] ^= 1
		wrong := map[string]api.Kind{"Decrypt": api.KindInvalidCiphertext, "ReEncrypt from": api.KindInvalidCiphertext, "ReEncrypt to": api.KindInvalidCiphertext,
			"Verify": api.KindInvalidSignature, "VerifyMac": api.KindInvalidMac, "Decapsulate": api.KindDryRun}
		_, in := try.request(f)
		reflect.ValueOf(in).Elem().FieldByName("DryRun").SetBool(true)
		f.wantDry(r, op, in, wrong[name])
	}
	broken := breakMember(op, in)
	if broken == "" {
		t.Fatal("no member can be broken")
	}
	f.wantDry(r, op, in, api.KindValidation)
}

// wantDry calls an operation that must fail in a way, leave one record that says so, and
// write nothing.
func (f *tried) wantDry(r *racktest.Rack, op *api.Op, in any, want api.Kind) {
	f.tb.Helper()
	before, rows := len(r.Records()), rowsOfKeys(f.tb, r)
	wantKind(f.tb, f.d.serve(f.tb, rootOf(racktest.Account), op, in), want)
	if !slices.Equal(rowsOfKeys(f.tb, r), rows) {
		f.tb.Errorf("%s: a dry run has written", want)
	}
	if left := r.Records()[before:]; len(left) != 1 || left[0].Op != op.Number || left[0].Error != uint16(want) {
		f.tb.Errorf("%s: got records %+v, want one", want, left)
	}
}

// rowsOfKeys returns all that the store has of keys; the appliance may write rows of its own
// at any time.
func rowsOfKeys(tb testing.TB, r *racktest.Rack) (all []string) {
	tb.Helper()
	if err := kms.Rows(r.KMS()).View(tb.Context(), func(r keystore.Reader) error {
		all = nil
		for _, space := range []keystore.Space{keystore.SpaceKey, keystore.SpaceMaterial, keystore.SpaceKeyMaterials, keystore.SpaceKeyTags,
			keystore.SpaceAccountKey, keystore.SpaceKeyCount, keystore.SpaceAlias, keystore.SpaceDue} {
			for e, err := range r.Scan(keystore.Range(space)) {
				if err != nil {
					return err
				}
				all = append(all, fmt.Sprintf("%s %x", e.Name, e.Value))
			}
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	return all
}
