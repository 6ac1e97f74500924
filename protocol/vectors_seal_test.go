package protocol_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/protocol"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// derive is the KDF with 8·n bits of output.
func derive(key []byte, label seal.Label, context []byte, n int) []byte {
	out := make([]byte, n)
	seal.KDF(out, key, label, context)
	return out
}

// outcome is what an expect line says of an error.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return api.KindOf(err).String()
}

// makeKDF makes a vector for each label, and two for the KDF's own edges.
func makeKDF(t *testing.T, m *maker) {
	contexts := map[string]int{"m1": 44, "k1": 0, "i1": 16, "w1": 16, "r1": 46, "s1": 0, "n1": 16, "a1": 33, "d1": 16, "l1": 16, "e1": 48, "e2": 33, "p1": 16, "o1": 16, "o2": 24}
	for _, l := range labelsOfSeal(t) {
		bits := 256
		if l.label == "k1" {
			bits = 512
		}
		m.add(kdfVector("label-"+l.label, l.label, randomBytes(32), randomBytes(contexts[l.label]), bits))
	}
	m.add(kdfVector("key-longer-than-a-block", "m1", randomBytes(65), randomBytes(44), 256))
	m.add(kdfVector("two-and-a-half-blocks", "k1", randomBytes(32), randomBytes(200), 640))
}

func kdfVector(name, label string, key, context []byte, bits int) vector {
	l := seal.Label([]byte(label))
	return named(name).with("label", label).with("key", key).with("context", context).with("bits", bits).
		with("input", seal.KDFInput(nil, l, context, uint32(bits))).
		with("output", derive(key, l, context, bits/8)).with("expect", "ok")
}

func checkKDF(t *testing.T, v *vector) {
	if !slices.ContainsFunc(labelsOfSeal(t), func(l labelRow) bool { return l.label == v.text("label") }) {
		t.Errorf("internal/seal has no label %s", v.text("label"))
	}
	key, context, bits := v.bytes(t, "key"), v.bytes(t, "context"), v.number(t, "bits")
	again := kdfVector(v.name(), v.text("label"), key, context, int(bits))
	expectLine(t, v, "input", again.bytes(t, "input"))
	expectLine(t, v, "output", again.bytes(t, "output"))
	expectOutcome(t, v, "ok")
}

// contextCases are contexts that vectors of contexts and of messages share.
func contextCases() map[string]map[string]string {
	many := map[string]string{}
	for i := range 30 {
		many[fmt.Sprintf("key-%d", i)] = fmt.Sprint(i)
	}
	return map[string]map[string]string{
		"one-pair":      {"tenant": "acme"},
		"empty-strings": {"": ""},
		// Shorter keys first, then bytewise: not the order of a dictionary.
		"ordered-by-length": {"aaa": "1", "b": "2", "Z": "3", "aa": "4", "é": "5", "a": "6"},
		// Two keys that look alike are two keys: nothing is normalised.
		"unicode":            {"e\u0301tat": "decomposed", "\u00e9tat": "composed", "钥匙": "🗝️"},
		"one-byte-lengths":   {strings.Repeat("k", 23): strings.Repeat("v", 24), "l": strings.Repeat("w", 255)},
		"two-byte-lengths":   {strings.Repeat("k", 300): strings.Repeat("v", 256)},
		"more-than-23-pairs": many,
	}
}

func jsonText(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

func makeContexts(_ *testing.T, m *maker) {
	cases := contextCases()
	cases["empty"] = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		m.add(named(name).with("pairs", jsonText(cases[name])).with("context", []byte(api.NewEncryptionContext(cases[name]))).with("expect", "ok"))
	}
	longest := strings.Repeat("v", api.MaxEncryptionContext-6) // behind a1 61 6b 79 and two bytes of length
	for i, value := range []string{longest, longest + "v"} {
		pairs := map[string]string{"k": value}
		m.add(named([]string{"longest", "too-long"}[i]).with("pairs", jsonText(pairs)).
			with("context", []byte(api.NewEncryptionContext(pairs))).with("expect", []string{"ok", "ValidationException"}[i]))
	}
	for _, bad := range []struct{ name, hex string }{
		{"keys-out-of-order", "a2 6162 6131 6161 6131"},
		{"longer-key-before-shorter", "a2 626161 6131 6162 6131"},
		{"key-twice", "a2 6161 6131 6161 6132"},
		{"length-not-shortest", "a1 7801 61 6131"},
		{"count-not-shortest", "b801 6161 6131"},
		{"indefinite-map", "bf 6161 6131 ff"},
		{"indefinite-text", "a1 6161 7f6131ff"},
		{"value-is-a-number", "a1 6161 01"},
		{"value-is-bytes", "a1 6161 4131"},
		{"value-is-null", "a1 6161 f6"},
		{"key-is-a-number", "a1 01 6131"},
		{"not-utf-8", "a1 6161 61ff"},
		{"surrogate", "a1 6161 63eda080"},
		{"not-a-map", "80"},
		{"more-pairs-than-bytes", "bb7fffffffffffffff 6161"},
		{"cut-off", "a1 6161 6231"},
	} {
		m.add(named(bad.name).with("context", unhexSpaced(bad.hex)).with("expect", api.KindSerialization))
	}
}

// checkContext asks the decoder of a request, as a server would.
func checkContext(t *testing.T, v *vector) {
	context := v.bytes(t, "context")
	body := cbor.AppendText(cbor.AppendUint(cbor.AppendMap(nil, 3), 1), "alias/a")
	body = cbor.AppendBytes(cbor.AppendUint(body, 2), []byte{0})
	body = append(cbor.AppendUint(body, 3), context...)
	var in kmsapi.EncryptRequest
	err := protocol.Native{}.Decode(kmsapi.Encrypt.Op, body, &in, nil)
	expectOutcome(t, v, outcome(err))
	if v.has("pairs") {
		expectLine(t, v, "context", api.NewEncryptionContext(pairsOf(t, v)))
	}
	if err == nil {
		expectLine(t, v, "context", in.EncryptionContext)
	}
}

func pairsOf(t *testing.T, v *vector) (pairs map[string]string) {
	t.Helper()
	if err := json.Unmarshal([]byte(v.text("pairs")), &pairs); err != nil {
		t.Fatal(err)
	}
	return pairs
}

// secrets are a key and one of its message keys, with everything in between.
type secrets struct {
	material, keyID, materialID []byte
	header                      seal.MessageHeader
	prk, ke, kc                 []byte
	message                     *seal.MessageKey
}

func newSecrets(t *testing.T, material, keyID []byte, salt *[seal.Salt]byte) *secrets {
	t.Helper()
	s := &secrets{material: material, keyID: keyID, materialID: derive(material, seal.LabelMaterialID, keyID, 32)}
	s.header = seal.NewMessageHeader([16]byte(keyID), [4]byte(s.materialID[:4]))
	if salt != nil {
		s.header.Salt = *salt
	}
	s.prk = derive(material, seal.LabelMessage, s.header.KDFContext(nil), 32)
	split := derive(s.prk, seal.LabelSplit, nil, 64)
	s.ke, s.kc = split[:32], split[32:]
	var err error
	if s.message, err = seal.NewMessageKey(s.header, s.prk); err != nil {
		t.Fatal(err)
	}
	return s
}

// head begins a vector with what the holder of the key knows.
func (s *secrets) head(name string) vector {
	return named(name).with("material", s.material).with("key-id", s.keyID)
}

// seal returns the message for a plaintext under a context.
func (s *secrets) seal(t *testing.T, plaintext, context []byte) []byte {
	t.Helper()
	blob, err := s.message.Seal(nil, nil, plaintext, context)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func hmacOf(key, data []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return mac.Sum(nil)
}

// whole is a vector of a good message with all intermediate values.
func (s *secrets) whole(name, pairs string, context, plaintext, blob []byte) vector {
	return s.head(name).with("key-material-id", s.materialID).with("salt", s.header.Salt[:]).
		with("prk", s.prk).with("ke", s.ke).with("kc", s.kc).
		with("pairs", pairs).with("context", context).with("commitment", blob[45:77]).with("iv", blob[77:89]).
		with("aad", append(blob[:77:77], context...)).with("plaintext", plaintext).
		with("ciphertext", blob[89:len(blob)-16]).with("tag", blob[len(blob)-16:]).with("blob", blob)
}

func makeMessages(t *testing.T, m *maker) {
	cases := contextCases()
	cases["empty-context"] = map[string]string{}
	for i, name := range slices.Sorted(maps.Keys(cases)) {
		s := newSecrets(t, randomBytes(32), randomBytes(16), nil)
		context := api.NewEncryptionContext(cases[name])
		plaintext := randomBytes([]int{1, 16, 17, 300}[i%4])
		if name == "one-pair" {
			plaintext = []byte("attack at dawn") // the worked example of PROTOCOL.md
		}
		v := s.whole(name, jsonText(cases[name]), context, plaintext, s.seal(t, plaintext, context))
		m.add(v.with("expect", "ok"))
	}
	makeDamaged(t, m)
	makeTwoContexts(t, m)
}

// regions of a message with a plaintext of 14 bytes.
var regions = []struct {
	name   string
	at, to int
	expect api.Kind
}{
	{"format", 0, 1, api.KindInvalidCiphertext},
	{"key-id", 1, 17, api.KindAccessDenied}, // of no key that the caller may use
	{"material-id", 17, 21, api.KindInvalidCiphertext},
	{"salt", 21, 45, api.KindInvalidCiphertext},
	{"commitment", 45, 77, api.KindInvalidCiphertext},
	{"iv", 77, 89, api.KindInvalidCiphertext},
	{"ciphertext", 89, 103, api.KindInvalidCiphertext},
	{"tag", 103, 119, api.KindInvalidCiphertext},
}

func makeDamaged(t *testing.T, m *maker) {
	s := newSecrets(t, randomBytes(32), randomBytes(16), nil)
	plaintext, context := randomBytes(14), api.NewEncryptionContext(map[string]string{"tenant": "acme"})
	good := s.seal(t, plaintext, context)
	refused := func(name string, k api.Kind, context, blob []byte, why string) {
		m.add(s.head(name).with("context", context).with("blob", blob).with("why", why).with("expect", k))
	}
	for _, r := range regions {
		first, last := bytes.Clone(good), bytes.Clone(good)
		first[r.at] ^= 0x80
		last[r.to-1] ^= 0x01
		refused("damaged-"+r.name+"-first-bit", r.expect, context, first, "one bit of the region is another")
		refused("damaged-"+r.name+"-last-bit", r.expect, context, last, "one bit of the region is another")
	}
	invalid := api.KindInvalidCiphertext
	refused("cut-by-a-byte", invalid, context, good[:len(good)-1], "the last byte is missing")
	refused("longer-by-a-byte", invalid, context, append(good[:len(good):len(good)], 0), "a byte more")
	refused("no-plaintext", invalid, context, good[:105], "105 bytes hold no plaintext: no message is that short")
	refused("header-only", invalid, context, good[:45], "nothing behind the header")
	refused("other-context", invalid, api.NewEncryptionContext(map[string]string{"tenant": "acmf"}), good, "one letter of the context is another")
	refused("context-left-out", invalid, api.NewEncryptionContext(nil), good, "sealed under a context, opened under the empty one")
	// Whoever holds the key can commit to another context; then the tag is wrong.
	other := api.NewEncryptionContext(map[string]string{"tenant": "evil"})
	forged := slices.Concat(good[:45], hmacOf(s.kc, other), good[77:])
	refused("commitment-to-another-context", invalid, other, forged, "the commitment is right for this context, the tag is not")
}

// checkMessage decrypts as service/kms does for a caller who names no key and
// may use one: the key by its id, its material, commitment, GCM.
func checkMessage(t *testing.T, v *vector) {
	material, keyID, blob, context := v.bytes(t, "material"), v.bytes(t, "key-id"), v.bytes(t, "blob"), v.bytes(t, "context")
	h, ok := seal.ParseMessage(blob)
	s := newSecrets(t, material, keyID, &h.Salt)
	switch {
	case !ok:
		expectOutcome(t, v, api.KindInvalidCiphertext.String())
		return
	case h.KeyID != [16]byte(keyID):
		expectOutcome(t, v, api.KindAccessDenied.String())
		return
	}
	plaintext, err := s.message.Open(nil, nil, blob, context)
	if err != nil {
		expectOutcome(t, v, api.KindInvalidCiphertext.String())
		expectPlainGCM(t, v, s)
		return
	}
	expectOutcome(t, v, "ok")
	whole := s.whole(v.name(), v.text("pairs"), context, plaintext, blob)
	for _, l := range whole.lines {
		if got := v.text(l[0]); got != l[1] {
			t.Errorf("%s: got %s, want %s", l[0], l[1], got)
		}
	}
	expectLine(t, v, "context", api.NewEncryptionContext(pairsOf(t, v)))
	expectLine(t, v, "commitment", hmacOf(s.kc, context))
	expectPlainGCM(t, v, s)
}

// expectPlainGCM checks that a message which is said to be good for GCM alone is.
func expectPlainGCM(t *testing.T, v *vector, s *secrets) {
	t.Helper()
	if !v.has("plain-gcm") {
		return
	}
	gcm, err := cipher.NewGCM(mustBlock(s.ke))
	if err != nil {
		t.Fatal(err)
	}
	blob := v.bytes(t, "blob")
	got, err := gcm.Open(nil, blob[77:89], blob[89:], append(blob[:77:77], v.bytes(t, "context")...))
	if err != nil || !bytes.Equal(got, v.bytes(t, "plaintext")) {
		t.Errorf("plain GCM: got %x, %v: the attack is not what it should be", got, err)
	}
}

func mustBlock(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return block
}

// makeTwoContexts makes what the commitment is for: one ciphertext whose tag is
// right under two contexts, both canonical and both of lower-case letters. GHASH
// is a polynomial in H over the blocks of the additional data, so adding d to a
// block and d·H to the next changes nothing. Whoever knows the material, as
// everyone does who imported it, knows H.
func makeTwoContexts(t *testing.T, m *maker) {
	s := newSecrets(t, randomBytes(32), randomBytes(16), nil)
	h := make([]byte, 16)
	mustBlock(s.ke).Encrypt(h, h)
	d, dh := twoFlips(toElement(h))
	// 77 bytes stand before the context and 10 before the text, whose first
	// nine letters fill the block that began with the commitment's end.
	first, second := []byte("customer-"), []byte("customer-")
	for _, flip := range slices.Concat(d.bytes(), dh.bytes()) {
		a := letterFor(flip)
		first, second = append(first, a), append(second, a^flip)
	}
	one, two := map[string]string{"tenant": string(first)}, map[string]string{"tenant": string(second)}
	plaintext := []byte("one plaintext for two tenants")
	context := api.NewEncryptionContext(one)
	blob := s.seal(t, plaintext, context)
	v := s.whole("two-contexts-first", jsonText(one), context, plaintext, blob)
	m.add(v.with("plain-gcm", "accepts").with("expect", "ok"))
	m.add(s.head("two-contexts-second").with("pairs", jsonText(two)).with("context", []byte(api.NewEncryptionContext(two))).
		with("plaintext", plaintext).with("blob", blob).with("plain-gcm", "accepts").
		with("why", "AES-GCM alone opens it under this context too").with("expect", api.KindInvalidCiphertext))
}

// letterFor returns a lower-case letter that is one again with flip's bits turned.
func letterFor(flip byte) byte {
	for a := byte('a'); a <= 'z'; a++ {
		if b := a ^ flip; 'a' <= b && b <= 'z' {
			return a
		}
	}
	panic(fmt.Sprintf("no letter for %02x", flip))
}

// twoFlips returns d and d·H, d not zero, neither of which turns another bit
// than the lower five of a byte: 80 free bits against 48 conditions, so Gauss'
// elimination over the single bits finds one.
func twoFlips(h element) (d, dh element) {
	var rows []struct{ d, dh, pivot element }
	for bit := range 128 {
		var d element
		if d[bit/64] = 1 << (bit % 64); d.upper() != (element{}) {
			continue
		}
		dh := d.times(h)
		for _, r := range rows {
			if dh.and(r.pivot) != (element{}) {
				d, dh = d.plus(r.d), dh.plus(r.dh)
			}
		}
		if dh.upper() == (element{}) {
			return d, dh
		}
		rows = append(rows, struct{ d, dh, pivot element }{d, dh, dh.upper().leading()})
	}
	panic("more free bits than conditions, and no solution")
}

// element is an element of GF(2^128) as SP 800-38D, section 6.3 writes it: the
// leftmost bit is the coefficient of x^0.
type element [2]uint64

func toElement(b []byte) element {
	return element{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (e element) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, e[0]), e[1])
}

func (e element) plus(v element) element { return element{e[0] ^ v[0], e[1] ^ v[1]} }

func (e element) and(v element) element { return element{e[0] & v[0], e[1] & v[1]} }

// upper returns the upper three bits of each byte.
func (e element) upper() element { return e.and(element{0xe0e0e0e0e0e0e0e0, 0xe0e0e0e0e0e0e0e0}) }

// leading returns the leftmost bit of e alone; e is not zero.
func (e element) leading() element {
	if e[0] != 0 {
		return element{1 << (bits.Len64(e[0]) - 1), 0}
	}
	return element{0, 1 << (bits.Len64(e[1]) - 1)}
}

// times is SP 800-38D, algorithm 1.
func (e element) times(v element) (z element) {
	for i := range 128 {
		if e[i/64]>>(63-i%64)&1 == 1 {
			z = z.plus(v)
		}
		carry := v[1] & 1
		v[1] = v[1]>>1 | v[0]<<63
		v[0] = v[0]>>1 ^ carry*0xe1<<56
	}
	return z
}
