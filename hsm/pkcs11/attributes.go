//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
)

// How an attribute is used.
const (
	given = 1 << iota // it stands in the template that makes the key
	newer             // modules of before PKCS#11 2.40 do not know it
)

// attribute is one that a key must have.
type attribute struct {
	kind  uint
	name  string
	value any // bool, uint or []byte
	how   int
}

// wire returns the value as PKCS#11 has it.
func (a *attribute) wire() *pkcs11.Attribute { return pkcs11.NewAttribute(a.kind, a.value) }

// oidP256 is the DER of the object identifier prime256v1 (RFC 5480, section 2.1.1.1).
var oidP256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// common is what both kinds of keys must have: made in the token, bound to it, good for signing and nothing else. In particular
// CKA_UNWRAP would let whoever has the PIN unwrap into a readable key.
var common = []attribute{
	{pkcs11.CKA_TOKEN, "CKA_TOKEN", true, given},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, given},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, given},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, given},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, 0},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, 0},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", true, 0},
	{pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false, given},
	{pkcs11.CKA_COPYABLE, "CKA_COPYABLE", false, given | newer},
	{pkcs11.CKA_DESTROYABLE, "CKA_DESTROYABLE", true, given | newer},
	{pkcs11.CKA_SIGN, "CKA_SIGN", true, given},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false, given},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false, given},
	{pkcs11.CKA_DERIVE, "CKA_DERIVE", false, given},
}

// wanted returns the attributes of a key of spec, or nil.
func wanted(spec hsm.Spec) []attribute {
	switch spec {
	case hsm.PRFSHA256:
		return append([]attribute{
			{pkcs11.CKA_CLASS, "CKA_CLASS", uint(pkcs11.CKO_SECRET_KEY), given},
			{pkcs11.CKA_KEY_TYPE, "CKA_KEY_TYPE", uint(pkcs11.CKK_GENERIC_SECRET), given},
			{pkcs11.CKA_VALUE_LEN, "CKA_VALUE_LEN", uint(32), given},
			{pkcs11.CKA_VERIFY, "CKA_VERIFY", false, given},
			{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", false, given},
			{pkcs11.CKA_WRAP, "CKA_WRAP", false, given},
		}, common...)
	case hsm.SignP256:
		return append([]attribute{
			{pkcs11.CKA_CLASS, "CKA_CLASS", uint(pkcs11.CKO_PRIVATE_KEY), given},
			{pkcs11.CKA_KEY_TYPE, "CKA_KEY_TYPE", uint(pkcs11.CKK_EC), given},
			{pkcs11.CKA_EC_PARAMS, "CKA_EC_PARAMS", oidP256, 0},
			{pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER", false, given},
		}, common...)
	}
	return nil
}

// template returns the attributes to make a key with.
func template(spec hsm.Spec, id [idSize]byte, leaveOut int) (out []*pkcs11.Attribute) {
	for _, a := range wanted(spec) {
		if a.how&given != 0 && a.how&leaveOut == 0 {
			out = append(out, a.wire())
		}
	}
	return append(out, pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "keyrack "+spec.String()))
}

// publicTemplate is of the public half, which is read once and kept in the blob: it need not stay in the token.
func publicTemplate(id [idSize]byte) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, oidP256),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]),
	}
}

// audit reads back the attributes of a key and returns an error that wraps ErrAttributes and names each that is not as it must be.
func (s session) audit(o pkcs11.ObjectHandle, spec hsm.Spec) error {
	want := wanted(spec)
	types := make([]uint, len(want))
	for i, a := range want {
		types[i] = a.kind
	}
	values, err := s.Attributes(s.SessionHandle, o, types)
	if err != nil {
		return called("C_GetAttributeValue", err)
	}
	var faults []string
	for _, a := range want {
		switch got, told := values[a.kind]; {
		case !told && a.how&newer != 0:
		case !told:
			faults = append(faults, a.name+" is not told")
		case !bytes.Equal(got, a.wire().Value):
			faults = append(faults, fmt.Sprintf("%s is %s, not %v", a.name, shown(got), a.value))
		}
	}
	if faults != nil {
		return fmt.Errorf("%w: %s", ErrAttributes, strings.Join(faults, "; "))
	}
	return nil
}

// shown prints an attribute: a boolean, or its bytes as they are.
func shown(b []byte) string {
	switch {
	case len(b) == 1 && b[0] <= 1:
		return fmt.Sprint(b[0] == 1)
	case len(b) > 32:
		return fmt.Sprintf("%d bytes", len(b))
	}
	return fmt.Sprintf("%#x", b)
}

// find returns the objects with this id: those of one class that the login alone shows, or, with ^0, all. What is not private can be made
// by whoever reaches the module, without the PIN.
func (s session) find(class uint, id [idSize]byte) (all []pkcs11.ObjectHandle, err error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, id[:])}
	if class != anyClass {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true))
	}
	if err := s.FindObjectsInit(s.SessionHandle, template); err != nil {
		return nil, called("C_FindObjectsInit", err)
	}
	for len(all) < maxFound { // a module may return fewer than asked for, and ends with none
		some, err := s.Find(s.SessionHandle)
		if err != nil {
			return nil, called("C_FindObjects", errors.Join(err, s.FindObjectsFinal(s.SessionHandle)))
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	return all, called("C_FindObjectsFinal", s.FindObjectsFinal(s.SessionHandle))
}

const anyClass = ^uint(0)

// classOf returns the class of the object that holds a key's secret.
func classOf(spec hsm.Spec) uint {
	if spec == hsm.PRFSHA256 {
		return pkcs11.CKO_SECRET_KEY
	}
	return pkcs11.CKO_PRIVATE_KEY
}

// point reads the public point of an object: 65 bytes, in the DER OCTET STRING that PKCS#11 asks for (2.40, section 2.3.3) or, as some
// vendors have it, without. A point that is not on the curve is refused.
func (s session) point(o pkcs11.ObjectHandle) ([]byte, *ecdsa.PublicKey, error) {
	values, err := s.Attributes(s.SessionHandle, o, []uint{pkcs11.CKA_EC_POINT})
	if err != nil {
		return nil, nil, called("C_GetAttributeValue", err)
	}
	point := values[pkcs11.CKA_EC_POINT]
	if len(point) != pointSize {
		var inner []byte
		if rest, err := asn1.Unmarshal(point, &inner); err != nil || len(rest) != 0 {
			return nil, nil, fmt.Errorf("%w: CKA_EC_POINT has %d bytes", ErrReply, len(point))
		}
		point = inner
	}
	public, err := parsePoint(point)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: CKA_EC_POINT: %w", ErrReply, err)
	}
	return point, public, nil
}

func parsePoint(point []byte) (*ecdsa.PublicKey, error) {
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}
