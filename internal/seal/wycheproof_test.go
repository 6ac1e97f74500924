package seal_test

import (
	"bytes"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	known "github.com/keyrack/keyrack/internal/vectors"
)

// TestGCMAnswersOfWycheproof: what can stand in a ciphertext: keys of 256 bits, IVs of 96 and tags of 128. Among them are
// tags of which one bit is another, and messages of whole and broken blocks. An IV of another length does not open.
func TestGCMAnswersOfWycheproof(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for _, g := range known.Wycheproof(t, "aes_gcm") {
		if g.KeySize != 256 || g.TagSize != 128 {
			continue
		}
		for _, v := range g.Tests {
			aead, err := seal.NewAEAD(v.Key)
			if err != nil {
				t.Fatal(err)
			}
			got, err := aead.Open(nil, nil, bytes.Join([][]byte{v.IV, v.CT, v.Tag}, nil), v.AAD)
			if want := g.IvSize == 96 && v.Valid(); (err == nil) != want || want && !bytes.Equal(got, v.Msg) {
				t.Errorf("%s, an IV of %d bits: got %x (%v), want %x, %s", &v, g.IvSize, got, err, v.Msg, v.Result)
			}
			if g.IvSize != 96 {
				seen["other IV"]++
				continue
			}
			seen[v.Result]++
		}
	}
	if seen["valid"] < 35 || seen["invalid"] < 25 || seen["other IV"] < 30 {
		t.Errorf("there were %v", seen)
	}
}
