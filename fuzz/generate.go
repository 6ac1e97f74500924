// Package fuzz holds the fuzz targets for what comes from outside, except those
// that need unexported code and stand beside it, and the generator of requests
// that the targets take their seeds from and other tests their examples.
//
// Read first: [Request]; FuzzRequest, one target for every operation of the
// table; the properties beside it, which say what must hold of accepted bytes.
//
// It opens no sockets and keeps no state: every target is a function of its bytes.
package fuzz

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"

	"github.com/keyrack/keyrack/api"
)

// Request returns a pointer to a random request of op that the appliance would
// accept: every constraint and the type's own Check hold. Optional members are
// absent half of the time, values often stand at an edge of what is allowed, and
// defaults are filled in. The same rng gives the same requests.
func Request(rng *rand.Rand, op *api.Op) any {
	for {
		in := op.NewIn()
		Fill(rng, op.In, in)
		if c, ok := in.(api.Checker); !ok || c.Check() == nil {
			return in
		}
	}
}

// Fill sets the members of v, a pointer to a zero value of s's type, as [Request]
// does, without regard to the type's own Check.
func Fill(rng *rand.Rand, s *api.Struct, v any) { fillStruct(rng, s, reflect.ValueOf(v).Elem()) }

// fillStruct fills the required members and half of the others.
func fillStruct(rng *rand.Rand, s *api.Struct, v reflect.Value) {
	for i := range s.Fields {
		f := &s.Fields[i]
		if f.Unsent { // a wire would lose it
			continue
		}
		if m := v.FieldByName(f.Name); f.Required || rng.IntN(2) == 0 {
			fill(rng, f, m)
		} else if f.Default != 0 {
			m.SetUint(uint64(f.Default))
		}
	}
}

// fill sets one member. Empty bytes and lists stay nil, as decoders leave them.
func fill(rng *rand.Rand, f *api.Field, v reflect.Value) {
	switch f.Shape {
	case api.ShapeText:
		if f.Form == api.AliasForm {
			v.SetString(alias(rng))
			return
		}
		v.SetString(patterned(rng, f.Pattern, size(rng, f.Min, f.Max)))
	case api.ShapeKeyRef:
		ref := KeyRef(rng)
		for f.Form != api.AnyForm && (ref.Form == api.RefAlias || ref.Form == api.RefAliasARN) {
			ref = KeyRef(rng)
		}
		v.Set(reflect.ValueOf(ref))
	case api.ShapeSecret, api.ShapeBlob:
		if n := size(rng, f.Min, f.Max); n > 0 {
			v.SetBytes(bytes(rng, n))
		}
	case api.ShapeBool:
		v.SetBool(rng.IntN(2) == 0)
	case api.ShapeInt, api.ShapeTime:
		v.SetInt(number(rng, f.Min, f.Max))
	case api.ShapeEnum:
		v.SetUint(1 + rng.Uint64N(uint64(len(f.Names))))
	case api.ShapeContext:
		v.Set(reflect.ValueOf(Context(rng)))
	case api.ShapeStruct:
		fillStruct(rng, f.Struct, v)
	case api.ShapeList:
		if n := size(rng, int64(f.Items[0]), min(int64(f.Items[1]), 5)); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
		}
		for i := range v.Len() {
			fill(rng, f.Elem, v.Index(i))
		}
	}
}

// KeyRef returns a random reference to a key, of each form and of none.
func KeyRef(rng *rand.Rand) api.KeyRef {
	id := api.KeyID(bytes(rng, 16)).AppendText(nil, rng.IntN(2) == 0)
	arn := fmt.Sprintf("arn:aws:kms:rack-1:%012d:", rng.Uint64N(1e12))
	forms := [...]string{string(id), arn + "key/" + string(id), alias(rng), arn + alias(rng), "k" + text(rng, 5)}
	return api.ParseKeyRef([]byte(forms[rng.IntN(len(forms))]))
}

// alias returns the name of an alias.
func alias(rng *rand.Rand) string { return "alias/" + strings.Repeat("a/_-:Z9", 1+rng.IntN(30)) }

// Context returns a random encryption context of at most three pairs.
func Context(rng *rand.Rand) api.EncryptionContext {
	pairs := map[string]string{}
	for range rng.IntN(4) {
		pairs[text(rng, rng.IntN(30))] = text(rng, rng.IntN(30))
	}
	return api.NewEncryptionContext(pairs)
}

// size returns a length from lo to hi, short or at an edge.
func size(rng *rand.Rand, lo, hi int64) int {
	if hi <= 1<<13 && rng.IntN(8) == 0 {
		return int(hi)
	}
	return int(lo + rng.Int64N(min(hi-lo, 40)+1))
}

// number returns an integer from lo to hi, one of the edges, or one near zero.
func number(rng *rand.Rand, lo, hi int64) int64 {
	near := max(lo, min(hi, rng.Int64N(200)-100))
	inside := lo + int64(rng.Uint64()%(uint64(hi-lo)|1)) // |1: lo may be hi, and hi-lo 2^64-1
	return [...]int64{lo, hi, near, inside}[rng.IntN(4)]
}

// letters are what text is made of: plain, what JSON escapes, and longer UTF-8.
var letters = []rune("abcXYZ019 /=:\"\\\x00\x1f\n\u007fé€\u2028\uffff😀")

// text returns n code points.
func text(rng *rand.Rand, n int) string {
	runes := make([]rune, n)
	for i := range runes {
		runes[i] = letters[rng.IntN(len(letters))]
	}
	return string(runes)
}

// patterned returns n code points that match a pattern as they do one by one, or its example.
func patterned(rng *rand.Rand, p *api.Pattern, n int) string {
	if p == nil {
		return text(rng, n)
	}
	fit := fitting(p)
	runes := make([]rune, n)
	for i := range runes {
		if len(fit) > 0 {
			runes[i] = fit[rng.IntN(len(fit))]
		}
	}
	if !p.Matches(string(runes)) {
		return p.Example
	}
	return string(runes)
}

var fitted sync.Map // *api.Pattern -> []rune

// fitting returns the code points below U+0180 that match a pattern one by one.
func fitting(p *api.Pattern) (fit []rune) {
	if known, ok := fitted.Load(p); ok {
		return known.([]rune)
	}
	for c := range rune(0x180) {
		if p.Matches(string(c)) {
			fit = append(fit, c)
		}
	}
	fitted.Store(p, fit)
	return fit
}

// bytes returns n bytes of any value.
func bytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}
