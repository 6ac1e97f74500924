package pkcs8_test

import (
	"bytes"
	"encoding/pem"
	"math/big"
	"testing"

	"github.com/keyrack/keyrack/internal/pkcs8"
	"github.com/keyrack/keyrack/internal/vectors"
)

// TestWycheproof: the private keys of Wycheproof's ECDH in PKCS#8 are read as the numbers that its other file has for
// them. Some are small, and some near the order.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	for curve, spec := range map[string]string{"secp256r1": "ECC_NIST_P256", "secp384r1": "ECC_NIST_P384", "secp521r1": "ECC_NIST_P521"} {
		files, numbers := vectors.Wycheproof(t, "ecdh_"+curve+"_pem"), vectors.Wycheproof(t, "ecdh_"+curve)
		seen := map[string]bool{}
		for i, v := range files[0].Tests {
			if seen[v.Private] {
				continue
			}
			seen[v.Private] = true
			block, _ := pem.Decode([]byte(v.Private))
			if block == nil {
				t.Fatalf("%s %s: no PEM", curve, &v)
			}
			want := new(big.Int).SetBytes(vectors.Hex(t, numbers[0].Tests[i].Private))
			got, err := pkcs8.Parse(block.Bytes)
			if err != nil || got.Spec != spec || !bytes.Equal(got.Secret, want.FillBytes(make([]byte, len(got.Secret)))) {
				t.Errorf("%s %s: got %+v, %v", curve, &v, got, err)
			}
		}
		if len(seen) < 20 {
			t.Errorf("%s: there were %d", curve, len(seen))
		}
	}
}
