package seal_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

// The CAVP answers of NIST for SP 800-108 in counter mode: file KDFCTR_gen.rsp of KDFCTR vectors, CAVS 14.4, section
// [PRF=HMAC_SHA256] [CTRLOCATION=BEFORE_FIXED] [RLEN=32_BITS], COUNT as named. The last output needs two blocks.
func TestKDFAnswersOfNIST(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ count, key, fixed, want string }{
		{"0", "dd1d91b7d90b2bd3138533ce92b272fbf8a369316aefe242e659cc0ae238afe0",
			"01322b96b30acd197979444e468e1c5c6859bf1b1cf951b7e725303e237e46b864a145fab25e517b08f8683d0315bb2911d80a0e8aba17f3b413faac",
			"10621342bfb0fd40046c0e29f2cfdbf0"},
		{"10", "e204d6d466aad507ffaf6d6dab0a5b26152c9e21e764370464e360c8fbc765c6",
			"7b03b98d9f94b899e591f3ef264b71b193fba7043c7e953cde23bc5384bc1a6293580115fae3495fd845dadbd02bd6455cf48d0f62b33e62364a3a80",
			"770dfab6a6a4a4bee0257ff335213f78d8287b4fd537d5c1fffa956910e7c779"},
		{"20", "dc60338d884eecb72975c603c27b360605011756c697c4fc388f5176ef81efb1",
			"44d7aa08feba26093c14979c122c2437c3117b63b78841cd10a4bc5ed55c56586ad8986d55307dca1d198edcffbc516a8fbe6152aa428cdd800c062d",
			"29ac07dccf1f28d506cd623e6e3fc2fa255bd60b"},
		{"30", "c4bedbddb66493e7c7259a3bbbc25f8c7e0ca7fe284d92d431d9cd99a0d214ac",
			"1c69c54766791e315c2cc5c47ecd3ffab87d0d273dd920e70955814c220eacace6a5946542da3dfe24ff626b4897898cafb7db83bdff3c14fa46fd4b",
			"1da47638d6c9c4d04d74d4640bbd42ab814d9e8cc22f4326695239f96b0693f12d0dd1152cf44430"},
	} {
		want := unhex(t, v.want)
		got := make([]byte, len(want))
		seal.CounterMode(got, unhex(t, v.key), unhex(t, v.fixed))
		if !bytes.Equal(got, want) {
			t.Errorf("COUNT=%s: got %x, want %x", v.count, got, want)
		}
	}
}

// RFC 8009, section 3 defines its key derivation as this KDF with the same shape of input, label ‖ 00 ‖ context ‖ [L]32,
// and appendix A gives answers for key usage 2, whose labels have five bytes.
func TestKDFAnswersOfRFC8009(t *testing.T) {
	t.Parallel()
	base := unhex(t, "3705D96080C17728A0E800EAB6E0D23C")
	for label, want := range map[string]string{
		"0000000299": "B31A018A48F54776F403E9A396325DC3",
		"00000002AA": "9B197DD1E8C5609D6E67C3E37C62C72E",
		"0000000255": "9FDA0E56AB2D85E1569A688696C26A6C",
	} {
		var got [16]byte
		seal.CounterMode(got[:], base, unhex(t, label+"00"+"00000080"))
		if !bytes.Equal(got[:], unhex(t, want)) {
			t.Errorf("label %s: got %x, want %s", label, got, want)
		}
	}
}

func TestKDFIsItsDefinition(t *testing.T) {
	t.Parallel()
	key, context := bytes.Repeat([]byte{7}, 32), []byte("a context")
	for _, n := range []int{1, 16, 32, 33, 64, 100} {
		input := append([]byte{0, 0, 0, 0, 'm', '1', 0}, context...)
		input = append(input, 0, 0, byte(n*8>>8), byte(n*8))
		var want []byte
		for len(want) < n {
			input[3]++
			mac := hmac.New(sha256.New, key)
			mac.Write(input)
			want = mac.Sum(want)
		}
		got := make([]byte, n)
		seal.KDF(got, key, seal.LabelMessage, context)
		if !bytes.Equal(got, want[:n]) {
			t.Errorf("%d bytes: got %x, want %x", n, got, want[:n])
		}
	}
}

// A token computes one HMAC: over KDFInput that must be the whole derivation.
func TestKDFInputIsOneTokenCall(t *testing.T) {
	t.Parallel()
	root := bytes.Repeat([]byte{9}, 32)
	h := seal.NewMessageHeader([16]byte{1}, [4]byte{2})
	input := seal.KDFInput([]byte("kept"), seal.LabelMessage, h.KDFContext(nil), 256)
	if string(input[:4]) != "kept" || len(input) != 4+55 {
		t.Fatalf("KDFInput appended %d bytes, want 55: one SHA-256 block", len(input)-4)
	}
	mac := hmac.New(sha256.New, root)
	mac.Write(input[4:])
	var want [32]byte
	seal.KDF(want[:], root, seal.LabelMessage, h.KDFContext(nil))
	if got := mac.Sum(nil); !bytes.Equal(got, want[:]) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestKDFSeparates(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, in := range []struct {
		key, context string
		label        seal.Label
		bytes        int
	}{
		{"key", "context", seal.LabelMessage, 32},
		{"kez", "context", seal.LabelMessage, 32},
		{"key", "context", seal.LabelRecord, 32},
		{"key", "contexu", seal.LabelMessage, 32},
		{"key", "", seal.LabelMessage, 32},
		{"key", "context", seal.LabelMessage, 64}, // the length is bound: no output is the start of a longer one
	} {
		out := make([]byte, in.bytes)
		seal.KDF(out, []byte(in.key), in.label, []byte(in.context))
		if other, ok := seen[string(out[:32])]; ok {
			t.Errorf("%v derives what %s derives", in, other)
		}
		seen[string(out[:32])] = fmt.Sprint(in)
	}
}

func TestLabelsAreDistinct(t *testing.T) {
	t.Parallel()
	seen := map[seal.Label]bool{}
	all := []seal.Label{
		seal.LabelMessage, seal.LabelSplit, seal.LabelMaterialID, seal.LabelBucket, seal.LabelRecord, seal.LabelState, seal.LabelName,
		seal.LabelToken, seal.LabelAudit, seal.LabelDomainKey, seal.LabelSlotTable, seal.LabelSlot, seal.LabelSlotKEK,
	}
	for _, l := range all {
		if seen[l] {
			t.Errorf("label %s is used twice", l)
		}
		seen[l] = true
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
