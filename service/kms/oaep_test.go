package kms_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

const encryptsAndDecrypts = kmsapi.UsageEncryptDecrypt

var bothOAEP = []kmsapi.EncryptionAlgorithm{kmsapi.RSAESOAEPSHA1, kmsapi.RSAESOAEPSHA256}

// oaepKeys are the specs of RSA with the longest plaintexts (AWS KMS API Reference, Encrypt).
var oaepKeys = []struct {
	spec         kmsapi.KeySpec
	bytes        int
	sha1, sha256 int
}{
	{kmsapi.KeySpecRSA2048, 256, 214, 190},
	{kmsapi.KeySpecRSA3072, 384, 342, 318},
	{kmsapi.KeySpecRSA4096, 512, 470, 446},
}

func oaepHash(a kmsapi.EncryptionAlgorithm) crypto.Hash {
	if a == kmsapi.RSAESOAEPSHA1 {
		return crypto.SHA1
	}
	return crypto.SHA256
}

// sealWith encrypts with a key and an algorithm.
func sealWith(tb testing.TB, c *client.Client, key string, a kmsapi.EncryptionAlgorithm, plaintext []byte) ([]byte, error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(key), EncryptionAlgorithm: a, Plaintext: plaintext})
	if err != nil {
		return nil, err
	}
	if out.KeyId != key || out.EncryptionAlgorithm != a {
		tb.Errorf("got %+v", out)
	}
	return out.CiphertextBlob, nil
}

// openWith decrypts with a key and an algorithm.
func openWith(tb testing.TB, c *client.Client, key string, a kmsapi.EncryptionAlgorithm, blob []byte) ([]byte, error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, kmsapi.Decrypt, &kmsapi.DecryptRequest{KeyId: ref(key), EncryptionAlgorithm: a, CiphertextBlob: blob})
	if err != nil {
		return nil, err
	}
	if out.KeyId != key || out.EncryptionAlgorithm != a || out.KeyMaterialId != "" {
		tb.Errorf("got %+v", out)
	}
	return out.Plaintext, nil
}

// outside encrypts as somebody does who has the public key alone.
func outside(tb testing.TB, public any, a kmsapi.EncryptionAlgorithm, plaintext []byte) []byte {
	tb.Helper()
	blob, err := rsa.EncryptOAEP(oaepHash(a).New(), rand.Reader, public.(*rsa.PublicKey), plaintext, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return blob
}

// raw is the RSA primitive alone (RFC 8017, section 5.1.1).
func raw(public any, message []byte) []byte {
	k := public.(*rsa.PublicKey)
	return new(big.Int).Exp(new(big.Int).SetBytes(message), big.NewInt(int64(k.E)), k.N).FillBytes(make([]byte, k.Size()))
}

// TestOAEP: what the appliance and what others encrypt is decrypted, of every length up
// to the limit and none beyond it, also after a restart; every damage is one error.
func TestOAEP(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	type made struct {
		arn  string
		a    kmsapi.EncryptionAlgorithm
		blob []byte
	}
	var kept []made
	long := bytes.Repeat([]byte("p"), 512)
	for _, c := range oaepKeys {
		arn := createKey(t, r, c.spec, encryptsAndDecrypts)
		out, public := publicKey(t, r, arn)
		if !slices.Equal(out.EncryptionAlgorithms, bothOAEP) || out.SigningAlgorithms != nil || out.KeyUsage != encryptsAndDecrypts {
			t.Errorf("%s: got %+v", c.spec, out)
		}
		if k := public.(*rsa.PublicKey); k.Size() != c.bytes || k.E != 65537 {
			t.Errorf("%s: %d bytes, exponent %d", c.spec, k.Size(), k.E)
		}
		for i, a := range bothOAEP {
			most := []int{c.sha1, c.sha256}[i]
			for _, n := range []int{1, most - 1, most} {
				blob, err := sealWith(t, r.Client, arn, a, long[:n])
				if err != nil || len(blob) != c.bytes {
					t.Fatalf("%s %s: %d bytes become %d, %v", c.spec, a, n, len(blob), err)
				}
				for _, blob := range [][]byte{blob, outside(t, public, a, long[:n])} {
					if got, err := openWith(t, r.Client, arn, a, blob); err != nil || !bytes.Equal(got, long[:n]) {
						t.Errorf("%s %s: %d bytes become %d, %v", c.spec, a, n, len(got), err)
					}
				}
				kept = append(kept, made{arn, a, blob})
			}
			_, err := sealWith(t, r.Client, arn, a, long[:most+1])
			wantSays(t, err, "ValidationException: Algorithm "+a.String()+" and key spec "+c.spec.String()+" cannot encrypt data larger than ")
		}
	}
	r.Restart(nil)
	for _, m := range kept {
		if got, err := openWith(t, r.Client, m.arn, m.a, m.blob); err != nil || !bytes.Equal(got, long[:len(got)]) {
			t.Errorf("%s, after a restart: %d bytes, %v", m.a, len(got), err)
		}
	}
	wantSound(t, r)
}

// TestOAEPDamage: whatever is wrong with a ciphertext, there is one answer to it.
func TestOAEPDamage(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, other := createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts), createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts)
	_, public := publicKey(t, r, arn)
	symmetric := encrypt(t, r, r.CreateKey(), []byte("x"))
	for _, a := range bothOAEP {
		blob := outside(t, public, a, []byte("attack at dawn"))
		short := blob // with a zero byte in front, which a number need not have
		for short[0] != 0 {
			short = outside(t, public, a, []byte("attack at dawn"))
		}
		labelled, err := rsa.EncryptOAEP(oaepHash(a).New(), rand.Reader, public.(*rsa.PublicKey), []byte("x"), []byte("label"))
		if err != nil {
			t.Fatal(err)
		}
		damaged := map[string][]byte{
			"a byte":            {1},
			"one byte less":     blob[:len(blob)-1],
			"no zero in front":  short[1:],
			"one byte more":     append(bytes.Clone(blob), 0),
			"a zero in front":   append([]byte{0}, blob...),
			"zero":              make([]byte, 256),
			"one":               append(make([]byte, 255), 1),
			"the modulus":       public.(*rsa.PublicKey).N.FillBytes(make([]byte, 256)),
			"beyond it":         bytes.Repeat([]byte{0xff}, 256),
			"6144 bytes":        make([]byte, api.MaxCiphertext),
			"a label":           labelled,
			"nothing in it":     outside(t, public, a, nil),
			"the other hash":    outside(t, public, kmsapi.RSAESOAEPSHA1+kmsapi.RSAESOAEPSHA256-a, []byte("x")),
			"of a symmetric":    symmetric,
			"another key's":     nil,
			"PKCS #1 v1.5":      raw(public, slices.Concat([]byte{0, 2}, bytes.Repeat([]byte{0xaa}, 250), []byte("\x00dawn"))[:256]),
			"no padding at all": raw(public, append(make([]byte, 200), bytes.Repeat([]byte("m"), 56)...)),
		}
		if damaged["another key's"], err = sealWith(t, r.Client, other, a, []byte("x")); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(blob); i += 17 {
			bent := bytes.Clone(blob)
			bent[i] ^= 1 << (i % 8)
			damaged["bit of byte "+string(rune('a'+i/17))] = bent
		}
		for what, blob := range damaged {
			_, err := openWith(t, r.Client, arn, a, blob)
			if err == nil || err.Error() != "InvalidCiphertextException: the ciphertext is damaged, or it was not made for this RSA key by this algorithm" {
				t.Errorf("%s: %s: got %v", a, what, err)
			}
		}
		if got, err := openWith(t, r.Client, arn, a, short); err != nil || string(got) != "attack at dawn" {
			t.Errorf("%s: it decrypts to %q, %v", a, got, err)
		}
	}
	if w := r.KMS().Warnings(); len(w) > 0 {
		t.Errorf("damaged ciphertexts make the appliance warn: %q", w)
	}
}

// TestOpenSSLEncrypts: what another implementation encrypts with the public key.
func TestOpenSSLEncrypts(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, dir := createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts), t.TempDir()
	out, _ := publicKey(t, r, arn)
	for name, b := range map[string][]byte{"key": out.PublicKey, "in": []byte("attack at dawn")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range bothOAEP {
		md := map[crypto.Hash]string{crypto.SHA1: "sha1", crypto.SHA256: "sha256"}[oaepHash(a)]
		cmd := exec.Command("openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "key", "-in", "in",
			"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+md, "-pkeyopt", "rsa_mgf1_md:"+md)
		cmd.Dir = dir
		blob, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := openWith(t, r.Client, arn, a, blob); err != nil || string(got) != "attack at dawn" {
			t.Errorf("%s: got %q, %v", a, got, err)
		}
	}
}

// TestOAEPRefusals: what can be wrong beside the ciphertext, alone and beside what is
// answered later, of both operations. Each is one record.
func TestOAEPRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, signing := createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts), createKey(t, r, kmsapi.KeySpecRSA2048, signsAndVerifies)
	disabled, symmetric := createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts), r.CreateKey()
	kms.SetState(t, r.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	const a, sha1 = kmsapi.RSAESOAEPSHA256, kmsapi.RSAESOAEPSHA1
	text, long, same := []byte("x"), make([]byte, 191), bound("purpose", "test")
	blob, err := sealWith(t, r.Client, arn, a, text)
	if err != nil {
		t.Fatal(err)
	}
	ofSymmetric := encrypt(t, r, symmetric, text)
	const tooLong, noContext = "ValidationException: Algorithm RSAES_OAEP_SHA_256 and key spec RSA_2048 cannot encrypt data larger than", "ValidationException: EncryptionContext is not supported with algorithm RSAES_OAEP_SHA_256"
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.EncryptRequest
		want string
	}{
		"unknown algorithm":             {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionAlgorithm: 5}, "ValidationException: 1 validation error detected: Value"},
		"SM2":                           {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionAlgorithm: 4}, "InvalidKeyUsageException: Algorithm SM2PKE is incompatible with key spec RSA_2048."},
		"no plaintext":                  {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), EncryptionAlgorithm: a}, "ValidationException: 1 validation error detected: Value null at 'plaintext'"},
		"4097 bytes":                    {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: make([]byte, 4097), EncryptionAlgorithm: a}, "ValidationException: 1 validation error detected: Value at 'plaintext'"},
		"191 bytes":                     {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: long, EncryptionAlgorithm: a}, tooLong + " 190 bytes."},
		"191 bytes, dry run":            {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: long, EncryptionAlgorithm: a, DryRun: true}, tooLong},
		"191 bytes, SHA-1, dry run":     {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: long, EncryptionAlgorithm: sha1, DryRun: true}, "DryRunOperationException: "},
		"context":                       {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionAlgorithm: a, EncryptionContext: same}, noContext},
		"context, 191 bytes, dry run":   {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: long, EncryptionAlgorithm: a, EncryptionContext: same, DryRun: true}, noContext},
		"empty context, dry run":        {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionAlgorithm: a, EncryptionContext: bound(), DryRun: true}, "DryRunOperationException: "},
		"no algorithm":                  {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text}, "InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."},
		"a key that signs":              {r.Client, kmsapi.EncryptRequest{KeyId: ref(signing), Plaintext: long, EncryptionAlgorithm: a}, "InvalidKeyUsageException: " + signing + " key usage is SIGN_VERIFY which is not valid for Encrypt."},
		"a symmetric key":               {r.Client, kmsapi.EncryptRequest{KeyId: ref(symmetric), Plaintext: text, EncryptionAlgorithm: a}, "InvalidKeyUsageException: Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT."},
		"disabled, 191 bytes":           {r.Client, kmsapi.EncryptRequest{KeyId: ref(disabled), Plaintext: long, EncryptionAlgorithm: a}, "DisabledException: " + disabled + " is disabled."},
		"disabled, no algorithm":        {r.Client, kmsapi.EncryptRequest{KeyId: ref(disabled), Plaintext: text}, "DisabledException: "},
		"stranger, 191 bytes":           {r.Stranger, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: long, EncryptionAlgorithm: a}, deniedTo("Encrypt", arn)},
		"operator":                      {r.Operator, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionAlgorithm: a}, "AccessDeniedException: "},
		"unknown key, context":          {r.Client, kmsapi.EncryptRequest{KeyId: ref(noSuchID), Plaintext: text, EncryptionAlgorithm: a, EncryptionContext: same}, "NotFoundException: "},
		"grant token, unknown key":      {r.Client, kmsapi.EncryptRequest{KeyId: ref(noSuchID), Plaintext: text, EncryptionAlgorithm: a, GrantTokens: []string{"t"}}, "InvalidGrantTokenException: "},
		"dry run":                       {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionAlgorithm: a, DryRun: true}, "DryRunOperationException: "},
		"a key that signs, and context": {r.Client, kmsapi.EncryptRequest{KeyId: ref(signing), Plaintext: text, EncryptionAlgorithm: a, EncryptionContext: same}, "InvalidKeyUsageException: "},
	} {
		t.Run("encrypt, "+name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			refused(t, r, kmsapi.Encrypt.Op, c.want, func() error { _, err := client.Do(t.Context(), c.c, kmsapi.Encrypt, &c.in); return err })
		})
	}
	ignore := []kmsapi.DryRunModifier{kmsapi.IgnoreCiphertext}
	const damaged = "InvalidCiphertextException: "
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.DecryptRequest
		want string
	}{
		"no key":                          {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionAlgorithm: a}, "ValidationException: KeyId is required with algorithm RSAES_OAEP_SHA_256"},
		"no key, grant token":             {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionAlgorithm: a, GrantTokens: []string{"t"}}, "ValidationException: KeyId is required"},
		"no ciphertext":                   {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), EncryptionAlgorithm: a}, "ValidationException: 1 validation error detected: Value null at 'ciphertextBlob'"},
		"no key, no algorithm":            {r.Client, kmsapi.DecryptRequest{CiphertextBlob: make([]byte, 256)}, damaged},
		"no algorithm":                    {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), CiphertextBlob: make([]byte, 256)}, damaged},
		"no algorithm, of a symmetric":    {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), CiphertextBlob: ofSymmetric}, "InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."},
		"a symmetric key":                 {r.Client, kmsapi.DecryptRequest{KeyId: ref(symmetric), CiphertextBlob: blob, EncryptionAlgorithm: a}, "InvalidKeyUsageException: Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT."},
		"a key that signs":                {r.Client, kmsapi.DecryptRequest{KeyId: ref(signing), CiphertextBlob: blob, EncryptionAlgorithm: a}, "InvalidKeyUsageException: " + signing + " key usage is SIGN_VERIFY which is not valid for Decrypt."},
		"disabled, damaged":               {r.Client, kmsapi.DecryptRequest{KeyId: ref(disabled), CiphertextBlob: text, EncryptionAlgorithm: a}, "DisabledException: " + disabled + " is disabled."},
		"stranger, damaged":               {r.Stranger, kmsapi.DecryptRequest{KeyId: ref(arn), CiphertextBlob: text, EncryptionAlgorithm: a}, deniedTo("Decrypt", arn)},
		"unknown key, damaged":            {r.Client, kmsapi.DecryptRequest{KeyId: ref(noSuchID), CiphertextBlob: text, EncryptionAlgorithm: a}, "NotFoundException: "},
		"context":                         {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), CiphertextBlob: blob, EncryptionAlgorithm: a, EncryptionContext: same}, noContext},
		"context, damaged, dry run":       {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), CiphertextBlob: text, EncryptionAlgorithm: a, EncryptionContext: same, DryRun: true}, noContext},
		"damaged, dry run":                {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), CiphertextBlob: text, EncryptionAlgorithm: a, DryRun: true}, damaged},
		"dry run":                         {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), CiphertextBlob: blob, EncryptionAlgorithm: a, DryRun: true}, "DryRunOperationException: "},
		"dry run of access":               {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), EncryptionAlgorithm: a, DryRun: true, DryRunModifiers: ignore}, "DryRunOperationException: "},
		"stranger's dry run of access":    {r.Stranger, kmsapi.DecryptRequest{KeyId: ref(arn), EncryptionAlgorithm: a, DryRun: true, DryRunModifiers: ignore}, deniedTo("Decrypt", arn)},
		"dry run of access, no algorithm": {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), DryRun: true, DryRunModifiers: ignore}, "InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT"},
	} {
		t.Run("decrypt, "+name, func(t *testing.T) {
			advance(time.Second)
			refused(t, r, kmsapi.Decrypt.Op, c.want, func() error { _, err := client.Do(t.Context(), c.c, kmsapi.Decrypt, &c.in); return err })
		})
	}
	everyState(t, r, arn, func() error { _, err := sealWith(t, r.Client, arn, a, text); return err })
	everyState(t, r, arn, func() error { _, err := openWith(t, r.Client, arn, a, blob); return err })
	_, err = client.Do(t.Context(), r.Client, kmsapi.GenerateDataKey, &kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: kmsapi.AES256})
	wantSays(t, err, "InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.")
}

// TestReEncryptBetweenKinds: from a symmetric key to one of RSA and back; material ids
// are those of symmetric keys alone, and what does not fit stays where it is.
func TestReEncryptBetweenKinds(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d, who := newDesk(r), rootOf(racktest.Account)
	symmetric, small, large := r.CreateKey(), createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts), createKey(t, r, kmsapi.KeySpecRSA4096, encryptsAndDecrypts)
	const a, sha1 = kmsapi.RSAESOAEPSHA256, kmsapi.RSAESOAEPSHA1
	text, context := bytes.Repeat([]byte("t"), 190), bound("purpose", "test")
	move := func(in *kmsapi.ReEncryptRequest) *kmsapi.ReEncryptResponse {
		t.Helper()
		out, err := ask(t, d, who, kmsapi.ReEncrypt, in)
		if err != nil {
			t.Fatal(err)
		}
		from, to := in.SourceEncryptionAlgorithm, in.DestinationEncryptionAlgorithm
		if (out.SourceKeyMaterialId == "") != (from > 1) || (out.DestinationKeyMaterialId == "") != (to > 1) ||
			out.SourceEncryptionAlgorithm != max(from, 1) || out.DestinationEncryptionAlgorithm != max(to, 1) {
			t.Errorf("got %+v", out)
		}
		return out
	}
	first := encrypt(t, r, symmetric, text, "purpose", "test")
	toSmall := move(&kmsapi.ReEncryptRequest{CiphertextBlob: first, SourceEncryptionContext: context, DestinationKeyId: ref(small), DestinationEncryptionAlgorithm: a})
	toLarge := move(&kmsapi.ReEncryptRequest{CiphertextBlob: toSmall.CiphertextBlob, SourceKeyId: ref(small), SourceEncryptionAlgorithm: a, DestinationKeyId: ref(large), DestinationEncryptionAlgorithm: sha1})
	back := move(&kmsapi.ReEncryptRequest{CiphertextBlob: toLarge.CiphertextBlob, SourceKeyId: ref(large), SourceEncryptionAlgorithm: sha1, DestinationKeyId: ref(symmetric), DestinationEncryptionContext: context})
	if got, err := decrypt(t, r.Client, back.CiphertextBlob, "purpose", "test"); err != nil || !bytes.Equal(got, text) {
		t.Errorf("it comes back as %q, %v", got, err)
	}
	if len(toSmall.CiphertextBlob) != 256 || len(toLarge.CiphertextBlob) != 512 || toLarge.SourceKeyId != small || toLarge.KeyId != large {
		t.Errorf("got %+v, %+v", toSmall, toLarge)
	}
	tooLong := encrypt(t, r, symmetric, bytes.Repeat([]byte("t"), 191))
	for want, in := range map[string]*kmsapi.ReEncryptRequest{
		"ValidationException: Algorithm RSAES_OAEP_SHA_256 and key spec RSA_2048 cannot encrypt data larger than 190 bytes.": {CiphertextBlob: tooLong, DestinationKeyId: ref(small), DestinationEncryptionAlgorithm: a, DryRun: true},
		"ValidationException: EncryptionContext is not supported with algorithm RSAES_OAEP_SHA_256":                          {CiphertextBlob: first[:1], SourceKeyId: ref(small), SourceEncryptionAlgorithm: a, SourceEncryptionContext: context, DestinationKeyId: ref(symmetric)},
		"ValidationException: EncryptionContext is not supported with algorithm RSAES_OAEP_SHA_1":                            {CiphertextBlob: first, DestinationKeyId: ref(small), DestinationEncryptionAlgorithm: sha1, DestinationEncryptionContext: context},
		"ValidationException: SourceKeyId is required with algorithm RSAES_OAEP_SHA_256":                                     {CiphertextBlob: toSmall.CiphertextBlob, SourceEncryptionAlgorithm: a, DestinationKeyId: ref(symmetric)},
		"InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.":                      {CiphertextBlob: first, SourceEncryptionContext: context, DestinationKeyId: ref(small)},
		"InvalidCiphertextException: ": {CiphertextBlob: toLarge.CiphertextBlob, SourceKeyId: ref(small), SourceEncryptionAlgorithm: a, DestinationKeyId: ref(symmetric)},
		"DryRunOperationException: ":   {CiphertextBlob: toSmall.CiphertextBlob, SourceKeyId: ref(small), SourceEncryptionAlgorithm: a, DestinationKeyId: ref(symmetric), DryRun: true},
	} {
		_, err := ask(t, d, who, kmsapi.ReEncrypt, in)
		wantSays(t, err, want)
	}
}

// TestABentRSAKeyEncryptsNothing: nor does it call a good ciphertext damaged. The sealed
// copy serves the next call.
func TestABentRSAKeyEncryptsNothing(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	d, who := newDesk(r), rootOf(racktest.Account)
	arn := createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts)
	const a = kmsapi.RSAESOAEPSHA256
	for how, damage := range map[string]func(){
		"private key": func() { kms.SwapPrivateKey(t, r.KMS(), keyID(t, arn)) },
		"public key":  func() { kms.BendPublicKey(r.KMS(), keyID(t, arn)) },
		"material":    func() { kms.FlipMaterialBit(t, r.KMS(), keyID(t, arn), 7); advance(api.MessageKeyLife) },
	} {
		for _, decrypts := range []bool{false, true} {
			blob, err := sealWith(t, r.Client, arn, a, []byte("x")) // now it is expanded
			if err != nil {
				t.Fatal(err)
			}
			if decrypts && how == "public key" {
				continue // which does not take part
			}
			damage()
			if decrypts {
				_, err = ask(t, d, who, kmsapi.Decrypt, &kmsapi.DecryptRequest{KeyId: ref(arn), EncryptionAlgorithm: a, CiphertextBlob: blob})
			} else {
				_, err = ask(t, d, who, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(arn), EncryptionAlgorithm: a, Plaintext: []byte("x")})
			}
			wantKind(t, err, api.KindKeyUnavailable)
			if got, err := openWith(t, r.Client, arn, a, blob); err != nil || string(got) != "x" {
				t.Errorf("damaged %s: then it decrypts to %q, %v", how, got, err)
			}
		}
	}
	if len(r.KMS().Warnings()) == 0 {
		t.Error("status does not warn of it")
	}
}

// TestRSACiphertextsLookLikeAnything: also like one of a symmetric key, and then they
// are decrypted all the same.
func TestRSACiphertextsLookLikeAnything(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, symmetric := createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts), r.CreateKey()
	_, public := publicKey(t, r, arn)
	const a = kmsapi.RSAESOAEPSHA256
	blob := outside(t, public, a, []byte("x"))
	for blob[0] != 1 { // the format of those of symmetric keys
		blob = outside(t, public, a, []byte("x"))
	}
	if got, err := openWith(t, r.Client, arn, a, blob); err != nil || string(got) != "x" {
		t.Errorf("it decrypts to %q, %v", got, err)
	}
	out, err := client.Do(t.Context(), r.Client, kmsapi.ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(arn), SourceEncryptionAlgorithm: a, DestinationKeyId: ref(symmetric)})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decrypt(t, r.Client, out.CiphertextBlob); err != nil || string(got) != "x" {
		t.Errorf("it is re-encrypted as %q, %v", got, err)
	}
}

// TestPlaintextsOfRSAAreWiped: they are in memory that is wiped with the reply, and where
// the answer has none, they are gone before it.
func TestPlaintextsOfRSAAreWiped(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, symmetric, secret := createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts), r.CreateKey(), []byte("attack at dawn, not at dusk")
	const a = kmsapi.RSAESOAEPSHA1
	blob, err := sealWith(t, r.Client, arn, a, secret)
	if err != nil {
		t.Fatal(err)
	}
	var memory []byte
	worked(t, r, kmsapi.Decrypt, &kmsapi.DecryptRequest{KeyId: ref(arn), EncryptionAlgorithm: a, CiphertextBlob: blob}, func(c *access.Call, in *kmsapi.DecryptRequest, out *kmsapi.DecryptResponse) error {
		memory = unsafe.Slice(&c.Bytes(1)[0], 8<<10) // a call's memory is one piece, larger than that
		err := r.KMS().Decrypt(c, in, out)
		if !bytes.Equal(out.Plaintext, secret) || !bytes.Contains(memory, secret) {
			t.Errorf("%q, %v: it is not in the call's memory", out.Plaintext, err)
		}
		return err
	})
	if n := bytes.Count(memory, []byte{0}); n != len(memory) {
		t.Errorf("Decrypt: %d bytes are not wiped", len(memory)-n)
	}
	worked(t, r, kmsapi.ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(arn), SourceEncryptionAlgorithm: a, DestinationKeyId: ref(symmetric)},
		func(c *access.Call, in *kmsapi.ReEncryptRequest, out *kmsapi.ReEncryptResponse) error {
			memory = unsafe.Slice(&c.Bytes(1)[0], 8<<10)
			err := r.KMS().ReEncrypt(c, in, out)
			if len(out.CiphertextBlob) == 0 || bytes.Contains(memory, secret[4:]) {
				t.Errorf("ReEncrypt returns with the plaintext in memory, or %v", err)
			}
			return err
		})
}
