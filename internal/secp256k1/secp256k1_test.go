package secp256k1_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyrack/keyrack/internal/pkcs8"
	"github.com/keyrack/keyrack/internal/secp256k1"
)

// The order of the curve, n (SEC 2, section 2.4.1).
const order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"

func unhex(tb testing.TB, digits string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func newKey(tb testing.TB) (*secp256k1.PrivateKey, *secp256k1.PublicKey) {
	tb.Helper()
	var scalar [secp256k1.Size]byte
	if err := secp256k1.Draw(scalar[:]); err != nil {
		tb.Fatal(err)
	}
	k, err := secp256k1.NewPrivateKey(scalar[:])
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(k.AppendScalar(nil), scalar[:]) {
		tb.Fatal("the key has another scalar than it was made of")
	}
	return k, k.Public().(*secp256k1.PublicKey)
}

// number is a signature's two numbers.
type number struct{ R, S *big.Int }

// otherHalf returns the signature with n - s for s, which is as good (FIPS 186-5, section 6.4.2).
func otherHalf(tb testing.TB, signature []byte) []byte {
	tb.Helper()
	var rs number
	if rest, err := asn1.Unmarshal(signature, &rs); err != nil || len(rest) > 0 {
		tb.Fatalf("not DER: %v", err)
	}
	n := new(big.Int).SetBytes(unhex(tb, order))
	if new(big.Int).Lsh(rs.S, 1).Cmp(n) > 0 {
		tb.Error("s is the larger one of two")
	}
	rs.S.Sub(n, rs.S)
	b, err := asn1.Marshal(rs)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestSignatures: what signs verifies, with either s, and every bit counts; no two signatures share a nonce.
func TestSignatures(t *testing.T) {
	t.Parallel()
	k, public := newKey(t)
	_, stranger := newKey(t)
	digest, seen := sha256.Sum256([]byte("attack at dawn")), map[string]bool{}
	for range 50 {
		signature, err := k.Sign(nil, digest[:], nil)
		if err != nil || len(signature) > 72 || !public.Valid(digest[:], signature) {
			t.Fatalf("%x does not verify, %v", signature, err)
		}
		other := otherHalf(t, signature)
		if !public.Valid(digest[:], other) || stranger.Valid(digest[:], signature) {
			t.Fatal("the other s does not do, or a stranger's key does")
		}
		var rs number
		if _, err := asn1.Unmarshal(signature, &rs); err != nil || seen[rs.R.String()] {
			t.Fatalf("a nonce came twice, or %v", err)
		}
		seen[rs.R.String()] = true
		for i := range signature {
			bent := bytes.Clone(signature)
			bent[i] ^= 1
			if public.Valid(digest[:], bent) {
				t.Fatalf("byte %d of %x does not count", i, signature)
			}
		}
		for _, wrong := range [][]byte{nil, signature[:len(signature)-1], append(bytes.Clone(signature), 0), append([]byte{0x30, 0x81, signature[1]}, signature[2:]...)} {
			if public.Valid(digest[:], wrong) {
				t.Fatalf("%x is taken", wrong)
			}
		}
		if public.Valid(digest[:31], signature) || public.Valid(append(digest[:], 0), signature) {
			t.Fatal("a digest of another length is taken")
		}
		digest = sha256.Sum256(digest[:])
	}
	for _, n := range []int{0, 31, 33, 64} {
		if _, err := k.Sign(nil, make([]byte, n), nil); err == nil {
			t.Errorf("it signs a digest of %d bytes", n)
		}
	}
}

// TestPoints: known multiples of the generator (SEC 2, section 2.4.1, gives the first), so that splitting a number
// changes nothing.
func TestPoints(t *testing.T) {
	t.Parallel()
	scalar := func(n int64) []byte { return big.NewInt(n).FillBytes(make([]byte, 32)) }
	last := unhex(t, order)
	last[31]--
	const g = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
	for name, c := range map[string]struct {
		scalar []byte
		want   string
	}{
		"1":     {scalar(1), "04" + g + "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"},
		"2":     {scalar(2), "04c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee51ae168fea63dc339a3c58419466ceaeef7f632653266d0e1236431a950cfe52a"},
		"n - 1": {last, "04" + g + "b7c52588d95c3b9aa25b0403f1eef75702e84bb7597aabe663b82f6f04ef2777"},
	} {
		k, err := secp256k1.NewPrivateKey(c.scalar)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.Public().(*secp256k1.PublicKey).Bytes()); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestNoScalars(t *testing.T) {
	t.Parallel()
	for what, b := range map[string][]byte{
		"0": make([]byte, 32), "the order": unhex(t, order), "beyond it": bytes.Repeat([]byte{0xff}, 32),
		"31 bytes": bytes.Repeat([]byte{1}, 31), "33 bytes": append([]byte{0}, bytes.Repeat([]byte{1}, 32)...), "nothing": nil,
	} {
		if _, err := secp256k1.NewPrivateKey(b); err == nil {
			t.Errorf("%s is a private scalar", what)
		}
	}
	if secp256k1.Draw(make([]byte, 31)) == nil {
		t.Error("it draws 31 bytes")
	}
}

// TestDER: a key has one encoding, which openssl writes and reads; nothing else is read.
func TestDER(t *testing.T) {
	t.Parallel()
	k, public := newKey(t)
	spki := public.MarshalPKIX()
	if again, err := secp256k1.ParsePKIX(spki); err != nil || !again.Equal(public) || len(spki) != 88 {
		t.Errorf("%x is not read: %v", spki, err)
	}
	for i := range spki {
		bent := bytes.Clone(spki)
		bent[i] ^= 1
		if _, err := secp256k1.ParsePKIX(bent); err == nil {
			t.Errorf("byte %d does not count", i)
		}
	}
	for _, wrong := range [][]byte{nil, spki[:87], append(bytes.Clone(spki), 0), append(bytes.Clone(spki[:23]), make([]byte, 65)...), append(bytes.Clone(spki[:23]), 0)} {
		if _, err := secp256k1.ParsePKIX(wrong); err == nil {
			t.Errorf("%x is read", wrong)
		}
	}
	der := k.AppendPKCS8([]byte("in front"))[8:]
	got, err := pkcs8.Parse(der)
	if err != nil || got.Spec != "ECC_SECG_P256K1" || !bytes.Equal(got.Secret, k.AppendScalar(nil)) || len(der) != 135 {
		t.Errorf("%x is read as %+v, %v", der, got, err)
	}
}

// TestOpenSSL: what it signs verifies here, and the other way round; it reads and writes keys as this package does.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openssl := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %q: %v", args, err)
		}
		return out
	}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, public := newKey(t)
	message := []byte("attack at dawn")
	digest := sha256.Sum256(message)
	write("message", message)
	write("ours", k.AppendPKCS8(nil))
	if written := openssl("pkey", "-inform", "DER", "-in", "ours", "-pubout", "-outform", "DER"); !bytes.Equal(written, public.MarshalPKIX()) {
		t.Errorf("openssl writes %x for %x", written, public.MarshalPKIX())
	}
	if written := openssl("pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-in", "ours", "-outform", "DER"); !bytes.Equal(written, k.AppendPKCS8(nil)) {
		t.Errorf("openssl writes %x for %x", written, k.AppendPKCS8(nil))
	}
	write("public", public.MarshalPKIX())
	openssl("pkey", "-pubin", "-inform", "DER", "-in", "public", "-out", "public.pem")
	for range 20 {
		theirs := openssl("dgst", "-sha256", "-sign", "ours", "-keyform", "DER", "message")
		if !public.Valid(digest[:], theirs) {
			t.Errorf("%x of openssl does not verify", theirs)
		}
		ours, err := k.Sign(nil, digest[:], nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, signature := range [][]byte{ours, otherHalf(t, ours)} {
			write("signature", signature)
			openssl("dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "message")
		}
	}
}

// FuzzDER: a public key that is read would be written the same way again, and a signature that is valid is one of few
// encodings: no byte of it can change.
func FuzzDER(f *testing.F) {
	k, public := newKey(f)
	digest := sha256.Sum256(nil)
	signature, err := k.Sign(nil, digest[:], nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(public.MarshalPKIX(), signature)
	f.Add(public.MarshalPKIX()[:23], []byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	f.Fuzz(func(t *testing.T, spki, signature []byte) {
		if k, err := secp256k1.ParsePKIX(spki); err == nil && !bytes.Equal(k.MarshalPKIX(), spki) {
			t.Errorf("%x is written as %x", spki, k.MarshalPKIX())
		}
		if !public.Valid(digest[:], signature) {
			return
		}
		var rs number
		if rest, err := asn1.Unmarshal(signature, &rs); err != nil || len(rest) > 0 {
			t.Fatalf("%x is valid and no DER: %v", signature, err)
		}
		if again, err := asn1.Marshal(rs); err != nil || !bytes.Equal(again, signature) {
			t.Errorf("%x is written as %x", signature, again)
		}
	})
}
