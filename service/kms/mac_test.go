package kms_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

const makesMacs = kmsapi.UsageGenerateVerifyMac

// hmacs are the specs of HMAC, each with its algorithm and hash function.
var hmacs = []struct {
	spec  kmsapi.KeySpec
	a     kmsapi.MacAlgorithm
	hash  func() hash.Hash
	bytes int
}{
	{kmsapi.KeySpecHMAC224, kmsapi.HMACSHA224, sha256.New224, 28},
	{kmsapi.KeySpecHMAC256, kmsapi.HMACSHA256, sha256.New, 32},
	{kmsapi.KeySpecHMAC384, kmsapi.HMACSHA384, sha512.New384, 48},
	{kmsapi.KeySpecHMAC512, kmsapi.HMACSHA512, sha512.New, 64},
}

func generateMac(tb testing.TB, r *racktest.Rack, key string, a kmsapi.MacAlgorithm, message []byte) ([]byte, error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.GenerateMac, &kmsapi.GenerateMacRequest{KeyId: ref(key), MacAlgorithm: a, Message: message})
	if err != nil {
		return nil, err
	}
	return out.Mac, nil
}

func verifyMac(tb testing.TB, r *racktest.Rack, key string, a kmsapi.MacAlgorithm, message, mac []byte) error {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.VerifyMac, &kmsapi.VerifyMacRequest{KeyId: ref(key), MacAlgorithm: a, Message: message, Mac: mac})
	if err == nil && (!out.MacValid || out.MacAlgorithm != a || out.KeyId != key) {
		tb.Errorf("got %+v", out)
	}
	return err
}

// byHand is FIPS 198-1, section 4, written out.
func byHand(h func() hash.Hash, key, message []byte) []byte {
	inner, outer := h(), h()
	block := make([]byte, inner.BlockSize())
	copy(block, key)
	for _, b := range block {
		inner.Write([]byte{b ^ 0x36})
		outer.Write([]byte{b ^ 0x5c})
	}
	inner.Write(message)
	outer.Write(inner.Sum(nil))
	return outer.Sum(nil)
}

// TestMacs: a code is what FIPS 198-1 says of the key's secret, also after a
// restart, and every bit of message and code counts.
func TestMacs(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	keys, codes, message := map[kmsapi.KeySpec]string{}, map[kmsapi.KeySpec][]byte{}, bytes.Repeat([]byte("m"), api.MaxMessage)
	for _, c := range hmacs {
		out, err := client.Do(t.Context(), r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{KeySpec: c.spec, KeyUsage: makesMacs})
		if err != nil {
			t.Fatal(err)
		}
		m := out.KeyMetadata
		if m.KeySpec != c.spec || m.CustomerMasterKeySpec != c.spec || m.KeyUsage != makesMacs || !slices.Equal(m.MacAlgorithms, []kmsapi.MacAlgorithm{c.a}) ||
			m.EncryptionAlgorithms != nil || m.CurrentKeyMaterialId != "" || !m.Enabled {
			t.Errorf("%s: got %+v", c.spec, m)
		}
		keys[c.spec] = m.Arn
		secret := kms.Secret(t, r.KMS(), keyID(t, m.Arn))
		for _, n := range []int{1, 63, 64, 65, 127, 128, api.MaxMessage} {
			got, err := generateMac(t, r, m.Arn, c.a, message[:n])
			if err != nil || len(got) != c.bytes || len(secret) != c.bytes || !bytes.Equal(got, byHand(c.hash, secret, message[:n])) {
				t.Errorf("%s: %d bytes: got %x, %v", c.spec, n, got, err)
			}
			codes[c.spec] = got
		}
	}
	r.Restart(nil)
	for _, c := range hmacs {
		key, code := keys[c.spec], codes[c.spec]
		if err := verifyMac(t, r, key, c.a, message, code); err != nil {
			t.Errorf("%s: after a restart: %v", c.spec, err)
		}
		bent := bytes.Clone(message)
		bent[len(bent)-1] ^= 1
		wantKind(t, verifyMac(t, r, key, c.a, bent, code), api.KindInvalidMac)
		for i := range code {
			bent := bytes.Clone(code)
			bent[i] ^= 1
			wantKind(t, verifyMac(t, r, key, c.a, message, bent), api.KindInvalidMac)
		}
		for _, other := range [][]byte{code[:1], code[:len(code)-1], append(bytes.Clone(code), 0), make([]byte, api.MaxMac)} {
			wantKind(t, verifyMac(t, r, key, c.a, message, other), api.KindInvalidMac)
		}
	}
	wantSound(t, r)
}

// TestMacVectors are the cases 1 to 4, 6 and 7 of RFC 4231, section 4.
func TestMacVectors(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("aa", 131)
	const larger = "This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm."
	for i, c := range []struct {
		key     string
		message string
		want    [4]string
	}{
		{strings.Repeat("0b", 20), "Hi There", [4]string{
			"896fb1128abbdf196832107cd49df33f47b4b1169912ba4f53684b22",
			"b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
			"afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
			"87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"}},
		{hex.EncodeToString([]byte("Jefe")), "what do ya want for nothing?", [4]string{
			"a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44",
			"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
			"af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
			"164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"}},
		{strings.Repeat("aa", 20), strings.Repeat("\xdd", 50), [4]string{
			"7fb3cb3588c6c1f6ffa9694d7d6ad2649365b0c1f65d69d1ec8333ea",
			"773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
			"88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27",
			"fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a47e67c807b946a337bee8942674278859e13292fb"}},
		{"0102030405060708090a0b0c0d0e0f10111213141516171819", strings.Repeat("\xcd", 50), [4]string{
			"6c11506874013cac6a2abc1bb382627cec6a90d86efc012de7afec5a",
			"82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
			"3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679ccf8a386c674cffb",
			"b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3dba91ca5c11aa25eb4d679275cc5788063a5f19741120c4f2de2adebeb10a298dd"}},
		{long, "Test Using Larger Than Block-Size Key - Hash Key First", [4]string{
			"95e9a0db962095adaebe9b2d6f0dbce2d499f112f2d2b7273fa6870e",
			"60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
			"4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
			"80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598"}},
		{long, larger, [4]string{
			"3a854166ac5d9f023f54d517d0b39dbd946770db9c2b95c9f6f565d1",
			"9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
			"6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e",
			"e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58"}},
	} {
		key, err := hex.DecodeString(c.key)
		if err != nil {
			t.Fatal(err)
		}
		for j, h := range hmacs {
			if got := hex.EncodeToString(kms.Mac(t, h.spec, key, []byte(c.message))); got != c.want[j] {
				t.Errorf("case %d, %s: got %s, want %s", i+1, h.a, got, c.want[j])
			}
		}
	}
}

// TestMacRefusals: what can be wrong, alone and beside what is answered later, of
// both operations. Each is one record.
func TestMacRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, disabled, symmetric := createKey(t, r, kmsapi.KeySpecHMAC256, makesMacs), createKey(t, r, kmsapi.KeySpecHMAC256, makesMacs), r.CreateKey()
	text, tokens := []byte("x"), []string{"t"}
	code, err := generateMac(t, r, arn, kmsapi.HMACSHA256, text)
	if err != nil {
		t.Fatal(err)
	}
	kms.SetState(t, r.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	const op, a, b = "GenerateMac", kmsapi.HMACSHA256, kmsapi.HMACSHA512
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.GenerateMacRequest
		want string
	}{
		"no message":                 {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: a}, "ValidationException: 1 validation error detected: Value null at 'message'"},
		"4097 bytes":                 {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: a, Message: make([]byte, 4097)}, "ValidationException: 1 validation error detected: Value at 'message'"},
		"no key":                     {r.Client, kmsapi.GenerateMacRequest{MacAlgorithm: a, Message: text}, "ValidationException: 1 validation error detected: Value null at 'keyId'"},
		"no algorithm":               {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(arn), Message: text}, "ValidationException: 1 validation error detected: Value null at 'macAlgorithm'"},
		"unknown algorithm":          {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: 5, Message: text}, "ValidationException: 1 validation error detected: Value"},
		"grant token, unknown key":   {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(noSuchID), MacAlgorithm: a, Message: text, GrantTokens: tokens}, "InvalidGrantTokenException: "},
		"unknown key, dry run":       {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(noSuchID), MacAlgorithm: a, Message: text, DryRun: true}, "NotFoundException: Key '" + ours + "key/" + noSuchID},
		"unknown alias":              {r.Client, kmsapi.GenerateMacRequest{KeyId: ref("alias/none"), MacAlgorithm: a, Message: text}, "NotFoundException: Alias "},
		"stranger":                   {r.Stranger, kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: a, Message: text}, deniedTo(op, arn)},
		"stranger, disabled":         {r.Stranger, kmsapi.GenerateMacRequest{KeyId: ref(disabled), MacAlgorithm: b, Message: text}, deniedTo(op, disabled)},
		"operator":                   {r.Operator, kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: a, Message: text}, "AccessDeniedException: "},
		"disabled":                   {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(disabled), MacAlgorithm: a, Message: text}, "DisabledException: " + disabled + " is disabled."},
		"disabled, other algorithm":  {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(disabled), MacAlgorithm: b, Message: text, DryRun: true}, "DisabledException: "},
		"a key that encrypts":        {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(symmetric), MacAlgorithm: a, Message: text}, "InvalidKeyUsageException: " + symmetric + " key usage is ENCRYPT_DECRYPT which is not valid for GenerateMac."},
		"other algorithm":            {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: b, Message: text}, "InvalidKeyUsageException: Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256."},
		"other algorithm, dry run":   {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: b, Message: text, DryRun: true}, "InvalidKeyUsageException: "},
		"dry run":                    {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: a, Message: text, DryRun: true}, "DryRunOperationException: "},
		"a key that encrypts, a dry": {r.Client, kmsapi.GenerateMacRequest{KeyId: ref(symmetric), MacAlgorithm: a, Message: text, DryRun: true}, "InvalidKeyUsageException: "},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			refused(t, r, kmsapi.GenerateMac.Op, c.want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.GenerateMac, &c.in)
				return err
			})
			refused(t, r, kmsapi.VerifyMac.Op, strings.ReplaceAll(c.want, op, "VerifyMac"), func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.VerifyMac, &kmsapi.VerifyMacRequest{
					KeyId: c.in.KeyId, MacAlgorithm: c.in.MacAlgorithm, Message: c.in.Message, Mac: code, GrantTokens: c.in.GrantTokens, DryRun: c.in.DryRun})
				return err
			})
		})
	}
	for name, c := range map[string]struct {
		mac  []byte
		want string
	}{
		"no code":             {nil, "ValidationException: 1 validation error detected: Value null at 'mac'"},
		"6145 bytes":          {make([]byte, 6145), "ValidationException: 1 validation error detected: Value at 'mac'"},
		"wrong code, dry run": {code[1:], "KMSInvalidMacException: the MAC is not that of the message under this key"},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second)
			refused(t, r, kmsapi.VerifyMac.Op, c.want, func() error {
				_, err := client.Do(t.Context(), r.Client, kmsapi.VerifyMac, &kmsapi.VerifyMacRequest{KeyId: ref(arn), MacAlgorithm: a, Message: text, Mac: c.mac, DryRun: true})
				return err
			})
		})
	}
	_, err = client.Do(t.Context(), r.Client, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text})
	wantSays(t, err, "InvalidKeyUsageException: "+arn+" key usage is GENERATE_VERIFY_MAC which is not valid for Encrypt.")
}

// notUsable are the states in which a key serves nobody, with AWS's words.
var notUsable = map[kmsapi.KeyState]string{
	kmsapi.StateDisabled:               "DisabledException: %s is disabled.",
	kmsapi.StatePendingDeletion:        "KMSInvalidStateException: %s is pending deletion.",
	kmsapi.StatePendingReplicaDeletion: "KMSInvalidStateException: %s is pending replica deletion.",
	kmsapi.StatePendingImport:          "KMSInvalidStateException: %s is pending import.",
	kmsapi.StateUnavailable:            "KMSInvalidStateException: %s is unavailable.",
	kmsapi.StateCreating:               "KMSInvalidStateException: %s is creating.",
}

// everyState tries an operation on a key in each state.
func everyState(t *testing.T, r *racktest.Rack, arn string, try func() error) {
	t.Helper()
	for state := kmsapi.StateEnabled; state <= kmsapi.StateUpdating; state++ {
		kms.SetState(t, r.KMS(), keyID(t, arn), state)
		if says := notUsable[state]; says != "" {
			wantSays(t, try(), strings.Replace(says, "%s", arn, 1))
		} else if err := try(); err != nil {
			t.Errorf("in state %s: %v", state, err)
		}
	}
	kms.SetState(t, r.KMS(), keyID(t, arn), kmsapi.StateEnabled)
}

func TestMacStates(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, text := createKey(t, r, kmsapi.KeySpecHMAC224, makesMacs), []byte("x")
	code, err := generateMac(t, r, arn, kmsapi.HMACSHA224, text)
	if err != nil {
		t.Fatal(err)
	}
	everyState(t, r, arn, func() error { _, err := generateMac(t, r, arn, kmsapi.HMACSHA224, text); return err })
	everyState(t, r, arn, func() error { return verifyMac(t, r, arn, kmsapi.HMACSHA224, text, code) })
}

// TestADamagedSecretMakesNoMacs: a bit that flips in memory makes no code once the
// expanded key's life is over, and the sealed copy serves the next call.
func TestADamagedSecretMakesNoMacs(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, text := createKey(t, r, kmsapi.KeySpecHMAC384, makesMacs), []byte("x")
	code, err := generateMac(t, r, arn, kmsapi.HMACSHA384, text)
	if err != nil {
		t.Fatal(err)
	}
	for _, bit := range []int{0, 383} {
		kms.FlipMaterialBit(t, r.KMS(), keyID(t, arn), bit)
		advance(api.MessageKeyLife)
		in := &kmsapi.GenerateMacRequest{KeyId: ref(arn), MacAlgorithm: kmsapi.HMACSHA384, Message: text}
		_, err = ask(t, newDesk(r), rootOf(racktest.Account), kmsapi.GenerateMac, in) // no client, which would try again
		wantKind(t, err, api.KindKeyUnavailable)
		if err := verifyMac(t, r, arn, kmsapi.HMACSHA384, text, code); err != nil {
			t.Errorf("after bit %d had flipped: %v", bit, err)
		}
	}
}

// TestExpandedKeysAreBounded: no more are kept ready than is allowed, and every key
// works all the same.
func TestExpandedKeysAreBounded(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	kms.BoundExpansions(r.KMS(), 2)
	var ids []api.KeyID
	for range 5 {
		ids = append(ids, keyID(t, createKey(t, r, kmsapi.KeySpecHMAC256, makesMacs)))
	}
	for range 3 {
		for i, id := range ids {
			if _, err := generateMac(t, r, id.String(), kmsapi.HMACSHA256, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if n := kms.Expanded(r.KMS(), ids...); n > 2 || n == 0 {
				t.Errorf("after key %d, %d are expanded", i, n)
			}
		}
	}
}

// TestRowsOfNoKey: a row whose spec and usage no key has, or whose material is of
// another spec, is not used.
func TestRowsOfNoKey(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for _, c := range []struct {
		spec  kmsapi.KeySpec
		usage kmsapi.KeyUsage
	}{{kmsapi.KeySpecHMAC256, makesMacs}, {kmsapi.KeySpecSymmetricDefault, makesMacs}, {0, 1}, {200, 1}, {1, 0}, {1, 200}} {
		arn := r.CreateKey()
		encrypt(t, r, arn, []byte("x"))
		kms.SetKind(t, r.KMS(), keyID(t, arn), c.spec, c.usage)
		_, err := encryptedBy(t, r.Client, arn)
		wantKind(t, err, api.KindInternal)
	}
}
