package kms_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/kms"
	"pgregory.net/rapid"
)

// turning is an account whose keys are rotated, beside what they should hold.
type turning struct {
	t    *testing.T
	d    *desk
	who  *identity.Principal
	keys []*turned
}

// turned is one key: its materials, the current one last, how often it was rotated
// on demand, and what was encrypted under it.
type turned struct {
	arn       string
	materials []string
	rotations int
	every     int64
	disabled  bool
	blobs     []sealedText
}

type sealedText struct {
	blob     api.Blob
	text, by string
}

// TestRotationBehavesLikeItsModel plays random operations of accounts whose keys have
// many materials, of which two are in memory at most; whatever was encrypted in all
// plays decrypts at their end, and behind a restart.
func TestRotationBehavesLikeItsModel(t *testing.T) {
	t.Parallel()
	var never atomic.Bool
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.Store = cutStore{keystore.NewMemory(), racktest.NewPower(1 << 30), &never} })
	kms.BoundPasts(r.KMS(), 2)
	d := newDesk(r)
	var plays []*turning
	rapid.Check(t, func(rt *rapid.T) {
		w := &turning{t: t, d: d, who: rootOf(newAccount())}
		plays = append(plays, w)
		rt.Repeat(map[string]func(*rapid.T){
			"create":     w.create,
			"rotate":     w.rotate,
			"encrypt":    w.encrypt,
			"decrypt":    w.decrypt,
			"re-encrypt": w.reEncrypt,
			"switch":     w.turnOff,
			"schedule":   w.schedule,
			"list":       w.list,
			"forget":     func(*rapid.T) { kms.ForgetKeys(d.KMS()) },
		})
	})
	wantSound(t, r)
	for range 2 {
		d = newDesk(r)
		for _, w := range plays {
			w.d = d
			for _, k := range w.keys {
				for _, s := range k.blobs {
					if k.disabled {
						continue
					}
					if err := w.opens(k, s); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		r.Restart(nil)
	}
}

func (w *turning) any(rt *rapid.T) *turned {
	if len(w.keys) == 0 {
		rt.Skip("no key")
	}
	return rapid.SampledFrom(w.keys).Draw(rt, "key")
}

// want compares how a request was answered with how it should have been: by DisabledException,
// if the key is disabled.
func (k *turned) want(rt *rapid.T, what string, got error, want api.Kind) {
	if k.disabled {
		want = api.KindDisabled
	}
	if api.KindOf(got) != want {
		rt.Fatalf("%s of %s: got %v, want %v", what, k.arn, got, want)
	}
}

func (k *turned) current() string { return k.materials[len(k.materials)-1] }

func (w *turning) create(rt *rapid.T) {
	if len(w.keys) == 2 {
		rt.Skip("enough keys")
	}
	out, err := ask(w.t, w.d, w.who, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	if err != nil {
		rt.Fatal(err)
	}
	w.keys = append(w.keys, &turned{arn: out.KeyMetadata.Arn, materials: []string{out.KeyMetadata.CurrentKeyMaterialId}})
}

func (w *turning) rotate(rt *rapid.T) {
	k := w.any(rt)
	_, err := ask(w.t, w.d, w.who, kmsapi.RotateKeyOnDemand, &kmsapi.RotateKeyOnDemandRequest{KeyId: ref(k.arn)})
	want := api.KindNone
	if k.rotations == api.MaxOnDemandRotations {
		want = api.KindLimitExceeded
	}
	k.want(rt, "rotation", err, want)
	if err != nil {
		return
	}
	out, err := ask(w.t, w.d, w.who, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(k.arn)})
	if err != nil || slices.Contains(k.materials, out.KeyMetadata.CurrentKeyMaterialId) {
		rt.Fatalf("rotated, %s is described as %+v, %v", k.arn, out, err)
	}
	k.materials, k.rotations = append(k.materials, out.KeyMetadata.CurrentKeyMaterialId), k.rotations+1
}

func (w *turning) encrypt(rt *rapid.T) {
	k := w.any(rt)
	text := fmt.Sprint(len(k.blobs))
	out, err := ask(w.t, w.d, w.who, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(k.arn), Plaintext: []byte(text)})
	k.want(rt, "Encrypt", err, api.KindNone)
	if err == nil {
		k.blobs = append(k.blobs, sealedText{out.CiphertextBlob, text, k.current()})
	}
}

func (k *turned) anyBlob(rt *rapid.T) sealedText {
	if len(k.blobs) == 0 {
		rt.Skip("no ciphertext")
	}
	return rapid.SampledFrom(k.blobs).Draw(rt, "ciphertext")
}

// opens says why a ciphertext does not decrypt to what is in it, by the material it was made with.
func (w *turning) opens(k *turned, s sealedText) error {
	out, err := ask(w.t, w.d, w.who, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: s.blob})
	if err != nil {
		return err
	}
	if string(out.Plaintext) != s.text || out.KeyMaterialId != s.by || out.KeyId != k.arn {
		return fmt.Errorf("got %q by material %s, want %q by %s", out.Plaintext, out.KeyMaterialId, s.text, s.by)
	}
	return nil
}

func (w *turning) decrypt(rt *rapid.T) {
	k := w.any(rt)
	if err := w.opens(k, k.anyBlob(rt)); k.disabled {
		k.want(rt, "Decrypt", err, api.KindNone)
	} else if err != nil {
		rt.Fatal(err)
	}
}

func (w *turning) reEncrypt(rt *rapid.T) {
	k := w.any(rt)
	old := k.anyBlob(rt)
	out, err := ask(w.t, w.d, w.who, kmsapi.ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: old.blob, DestinationKeyId: ref(k.arn)})
	k.want(rt, "ReEncrypt", err, api.KindNone)
	if err != nil {
		return
	}
	if out.SourceKeyMaterialId != old.by || out.DestinationKeyMaterialId != k.current() {
		rt.Fatalf("moved from material %s to %s, want %s to %s", out.SourceKeyMaterialId, out.DestinationKeyMaterialId, old.by, k.current())
	}
	k.blobs = append(k.blobs, sealedText{out.CiphertextBlob, old.text, k.current()})
}

func (w *turning) turnOff(rt *rapid.T) {
	k := w.any(rt)
	var err error
	if k.disabled {
		_, err = ask(w.t, w.d, w.who, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(k.arn)})
	} else {
		_, err = ask(w.t, w.d, w.who, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(k.arn)})
	}
	if err != nil {
		rt.Fatal(err)
	}
	k.disabled = !k.disabled
}

func (w *turning) schedule(rt *rapid.T) {
	k := w.any(rt)
	days := rapid.SampledFrom([]int64{0, 90, 365, 2560}).Draw(rt, "days")
	var err error
	if days == 0 {
		_, err = ask(w.t, w.d, w.who, kmsapi.DisableKeyRotation, &kmsapi.DisableKeyRotationRequest{KeyId: ref(k.arn)})
	} else {
		_, err = ask(w.t, w.d, w.who, kmsapi.EnableKeyRotation, &kmsapi.EnableKeyRotationRequest{KeyId: ref(k.arn), RotationPeriodInDays: days})
	}
	k.want(rt, "the schedule", err, api.KindNone)
	if err == nil {
		k.every = days
	}
	out, err := ask(w.t, w.d, w.who, kmsapi.GetKeyRotationStatus, &kmsapi.GetKeyRotationStatusRequest{KeyId: ref(k.arn)})
	if err != nil || out.RotationPeriodInDays != k.every || out.KeyRotationEnabled != (k.every > 0) {
		rt.Fatalf("the status of %s is %+v, %v; want every %d days", k.arn, out, err, k.every)
	}
}

func (w *turning) list(rt *rapid.T) {
	k := w.any(rt)
	limit := rapid.Int64Range(1, 9).Draw(rt, "limit")
	var got []string
	for marker := ""; ; {
		out, err := ask(w.t, w.d, w.who, kmsapi.ListKeyRotations, &kmsapi.ListKeyRotationsRequest{
			KeyId: ref(k.arn), IncludeKeyMaterial: kmsapi.AllKeyMaterial, Limit: limit, Marker: marker})
		if err != nil {
			rt.Fatal(err)
		}
		for _, e := range out.Rotations {
			if (e.KeyMaterialState == kmsapi.MaterialCurrent) != (e.KeyMaterialId == k.current()) {
				rt.Fatalf("%+v, and %s is current", e, k.current())
			}
			got = append(got, e.KeyMaterialId)
		}
		if marker = out.NextMarker; !out.Truncated {
			break
		}
	}
	if !slices.Equal(got, k.materials) {
		rt.Fatalf("the materials of %s are %v, want %v", k.arn, got, k.materials)
	}
}
