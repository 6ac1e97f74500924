package seal_test

import (
	"bytes"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	known "github.com/keyrack/keyrack/internal/vectors"
)

// TestEveryKDFAnswerOfNIST: all of the section that TestKDFAnswersOfNIST has four of.
func TestEveryKDFAnswerOfNIST(t *testing.T) {
	t.Parallel()
	n := 0
	for _, c := range known.NIST(t, "KDF/nist-800-108-KBKDF-CTR.txt") {
		if c["PRF"] != "HMAC_SHA256" || c["CTRLOCATION"] != "BEFORE_FIXED" || c["RLEN"] != "32_BITS" || !c.Has("KO") {
			continue
		}
		want := c.Bytes(t, "KO")
		got := make([]byte, len(want))
		seal.CounterMode(got, c.Bytes(t, "KI"), c.Bytes(t, "FixedInputData"))
		if !bytes.Equal(got, want) {
			t.Errorf("COUNT=%s: got %x, want %x", c["COUNT"], got, want)
		}
		n++
	}
	if n != 40 {
		t.Errorf("there were %d, want 40", n)
	}
}

// TestGCMAnswersOfNIST: CAVS 14.0, decryption with 256 bits, of what can stand in a ciphertext: IVs of 96 bits and tags of 128.
func TestGCMAnswersOfNIST(t *testing.T) {
	t.Parallel()
	opened, refused := 0, 0
	for _, c := range known.NIST(t, "ciphers/AES/GCM/gcmDecrypt256.rsp") {
		if c["IVlen"] != "96" || c["Taglen"] != "128" || !c.Has("Tag") {
			continue
		}
		aead, err := seal.NewAEAD(c.Bytes(t, "Key"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := aead.Open(nil, nil, bytes.Join([][]byte{c.Bytes(t, "IV"), c.Bytes(t, "CT"), c.Bytes(t, "Tag")}, nil), c.Bytes(t, "AAD"))
		if c.Has("FAIL") {
			refused++
			if err == nil {
				t.Errorf("key %s: it opens to %x", c["Key"], got)
			}
			continue
		}
		opened++
		if err != nil || !bytes.Equal(got, c.Bytes(t, "PT")) {
			t.Errorf("key %s: got %x (%v), want %s", c["Key"], got, err, c["PT"])
		}
	}
	if opened+refused != 375 || refused < 100 {
		t.Errorf("there were %d and %d, want 375", opened, refused)
	}
}
