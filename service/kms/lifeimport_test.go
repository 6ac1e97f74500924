package kms_test

import (
	"slices"

	"pgregory.net/rapid"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// Materials that the owner of a key brings, in the plays of life_test.go.

// imports is what a model knows of them.
type imports struct {
	bytes   map[string][]byte // every material there was, by id
	pending string            // waits for a rotation
	gone    []string          // deleted, and to be imported again before the key serves
}

// bring imports what the key lacks; or its first material; or another one, which waits for a rotation.
func (l *life) bring(rt *rapid.T) {
	k := l.pick(rt)
	if k.imported == nil || rapid.IntRange(0, 3).Draw(rt, "seldom") > 0 { // a wrapping key of RSA takes its time
		rt.Skip("not now")
	}
	l.bringTo(rt, k)
}

func (l *life) bringTo(rt *rapid.T, k *lifeKey) {
	m, in := k.imported, &kmsapi.ImportKeyMaterialRequest{KeyId: ref(k.arn), ExpirationModel: kmsapi.MaterialDoesNotExpire, ImportType: kmsapi.NewKeyMaterial}
	material := randomBytes(32)
	if len(m.gone) > 0 {
		material, in.ImportType = m.bytes[m.gone[0]], kmsapi.ExistingKeyMaterial
	} else if m.pending != "" {
		material, in.ImportType = m.bytes[m.pending], kmsapi.ExistingKeyMaterial
	}
	p, err := attempt(l, kmsapi.GetParametersForImport, &kmsapi.GetParametersForImportRequest{KeyId: ref(k.arn), WrappingAlgorithm: kmsapi.WrapOAEPSHA256, WrappingKeySpec: kmsapi.WrappingRSA2048})
	l.want(rt, "asking for parameters of", k, err, k.refusal(kmsapi.StateEnabled, kmsapi.StateDisabled, kmsapi.StatePendingImport, 0))
	if err != nil {
		return
	}
	in.ImportToken, in.EncryptedKeyMaterial = p.ImportToken, wrap(l.t, kmsapi.WrapOAEPSHA256, p.PublicKey, material)
	out, err := attempt(l, kmsapi.ImportKeyMaterial, in)
	l.want(rt, "importing into", k, err, api.KindNone)
	if err != nil {
		return
	}
	id := out.KeyMaterialId
	m.bytes[id] = material
	switch {
	case len(m.gone) > 0:
		if id != m.gone[0] {
			rt.Fatalf("the same material is %s, was %s", id, m.gone[0])
		}
		if m.gone = m.gone[1:]; len(m.gone) == 0 {
			k.state = kmsapi.StateEnabled
		}
	case len(k.materials) == 0:
		k.materials, k.state = []string{id}, kmsapi.StateEnabled
	default:
		m.pending = id
	}
	l.materialsOf(rt, k)
}

// takeAway deletes the current material or one before it.
func (l *life) takeAway(rt *rapid.T) {
	k := l.pick(rt)
	if k.imported == nil || len(k.materials) == 0 || k.state == kmsapi.StatePendingDeletion {
		rt.Skip("no imported material")
	}
	id := rapid.SampledFrom(k.materials).Draw(rt, "material")
	_, err := attempt(l, kmsapi.DeleteImportedKeyMaterial, &kmsapi.DeleteImportedKeyMaterialRequest{KeyId: ref(k.arn), KeyMaterialId: id})
	l.want(rt, "deleting material of", k, err, api.KindNone)
	if err != nil {
		return
	}
	if !slices.Contains(k.imported.gone, id) {
		k.imported.gone = append(k.imported.gone, id)
	}
	k.state = kmsapi.StatePendingImport
	l.materialsOf(rt, k)
}

// comparePending compares the material that waits for a rotation and what is imported with the model, and returns the
// entries without it.
func (l *life) comparePending(rt *rapid.T, k *lifeKey, all []kmsapi.RotationsListEntry) (rest []kmsapi.RotationsListEntry) {
	if k.imported == nil {
		return all
	}
	pending := ""
	for _, e := range all {
		want := kmsapi.Imported
		if slices.Contains(k.imported.gone, e.KeyMaterialId) {
			want = kmsapi.PendingImport
		}
		if e.ImportState != want {
			rt.Fatalf("%s is %s, want %s", e.KeyMaterialId, e.ImportState, want)
		}
		if e.KeyMaterialState == kmsapi.MaterialPendingRotation {
			pending = e.KeyMaterialId
		} else {
			rest = append(rest, e)
		}
	}
	if pending != k.imported.pending {
		rt.Fatalf("%q waits for a rotation, want %q", pending, k.imported.pending)
	}
	return rest
}
