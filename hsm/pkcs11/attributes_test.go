//go:build cgo

package pkcs11_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	raw "github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/pkcs11"
)

// TestEveryAttributeCounts changes one answer at a time: the key is refused by the attribute's name, then by its absence, unless the
// attribute is one that older modules do not know.
func TestEveryAttributeCounts(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "attributes")
	newer := []string{"CKA_COPYABLE", "CKA_DESTROYABLE"}
	for name, kind := range pkcs11.AttributeNames() {
		seen := false
		for _, absent := range []bool{false, true} {
			r.told = func(values map[uint][]byte) {
				if v, ok := values[kind]; ok && absent {
					delete(values, kind)
					seen = true
				} else if ok {
					v[0] ^= 1
				}
			}
			for _, blob := range [][]byte{r.root, r.signer} {
				seen = false
				k, err := r.token.Load(t.Context(), blob)
				fine := absent && (!seen || slices.Contains(newer, name))
				if !fine && !absent && err == nil && !has(blob, name) {
					fine = true // the other kind of key has it
				}
				if fine != (err == nil) || !fine && (!errors.Is(err, pkcs11.ErrAttributes) || !strings.Contains(err.Error(), name) || k != nil) {
					t.Errorf("%s of %x wrong, absent %t: %v, %v", name, blob[2], absent, k, err)
				}
			}
		}
	}
	r.told = nil
	for _, blob := range [][]byte{r.root, r.signer} {
		if _, err := r.token.Load(t.Context(), blob); err != nil {
			t.Error(err)
		}
	}
}

// has reports whether FORMAT.md gives the attribute to keys of the blob's kind.
func has(blob []byte, name string) bool {
	only := map[string]byte{"CKA_VALUE_LEN": 1, "CKA_VERIFY": 1, "CKA_ENCRYPT": 1, "CKA_WRAP": 1, "CKA_EC_PARAMS": 2, "CKA_SIGN_RECOVER": 2}
	kind, ok := only[name]
	return !ok || kind == blob[2]
}

// TestTheAttributesAreAllThere pins the set: what is not in it is not checked.
func TestTheAttributesAreAllThere(t *testing.T) {
	t.Parallel()
	want := strings.Fields("CKA_ALWAYS_SENSITIVE CKA_CLASS CKA_COPYABLE CKA_DECRYPT CKA_DERIVE CKA_DESTROYABLE CKA_EC_PARAMS CKA_ENCRYPT CKA_EXTRACTABLE " +
		"CKA_KEY_TYPE CKA_LOCAL CKA_MODIFIABLE CKA_NEVER_EXTRACTABLE CKA_PRIVATE CKA_SENSITIVE CKA_SIGN CKA_SIGN_RECOVER CKA_TOKEN CKA_UNWRAP " +
		"CKA_VALUE_LEN CKA_VERIFY CKA_WRAP")
	if got := slices.Sorted(maps.Keys(pkcs11.AttributeNames())); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestAModuleThatMakesAnotherKey: a template that the module does not follow leaves no key behind.
func TestAModuleThatMakesAnotherKey(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "disobedient")
	before := r.objects(t)
	for _, kind := range []uint{raw.CKA_EXTRACTABLE, raw.CKA_UNWRAP, raw.CKA_MODIFIABLE, raw.CKA_SENSITIVE} {
		r.given = func(template []*raw.Attribute) error {
			for _, a := range template {
				if a.Type == kind {
					a.Value = []byte{a.Value[0] ^ 1}
				}
			}
			return nil
		}
		if k, blob, err := r.token.Generate(t.Context(), hsm.PRFSHA256); !errors.Is(err, pkcs11.ErrAttributes) || k != nil || blob != nil {
			t.Errorf("attribute %#x: Generate returned %v, %x, %v", kind, k, blob, err)
		}
	}
	if after := r.objects(t); after != before {
		t.Errorf("%d objects, were %d", after, before)
	}
}

// TestAnOldModule does not know the attributes that PKCS#11 2.40 has brought.
func TestAnOldModule(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "old")
	r.given = func(template []*raw.Attribute) error {
		for _, a := range template {
			if a.Type == raw.CKA_COPYABLE || a.Type == raw.CKA_DESTROYABLE {
				return raw.Error(raw.CKR_ATTRIBUTE_TYPE_INVALID)
			}
		}
		return nil
	}
	r.told = func(values map[uint][]byte) { delete(values, raw.CKA_COPYABLE); delete(values, raw.CKA_DESTROYABLE) }
	_, blob := generate(t, r.token, hsm.PRFSHA256)
	if _, err := r.token.Load(t.Context(), blob); err != nil {
		t.Error(err)
	}
}

// TestAFullToken says so.
func TestAFullToken(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "full")
	r.given = func([]*raw.Attribute) error { return raw.Error(raw.CKR_DEVICE_MEMORY) }
	if _, _, err := r.token.Generate(t.Context(), hsm.PRFSHA256); !errors.Is(err, pkcs11.ErrFull) {
		t.Errorf("Generate returned %v", err)
	}
	r.given = func([]*raw.Attribute) error { return raw.Error(raw.CKR_TOKEN_WRITE_PROTECTED) }
	if _, _, err := r.token.Generate(t.Context(), hsm.PRFSHA256); !errors.Is(err, pkcs11.ErrToken) {
		t.Errorf("Generate returned %v", err)
	}
}
