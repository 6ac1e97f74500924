package kms_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// createMulti creates a multi-Region key and returns what is said of it.
func createMulti(tb testing.TB, r *racktest.Rack, in kmsapi.CreateKeyRequest) kmsapi.KeyMetadata {
	tb.Helper()
	in.MultiRegion = true
	out, err := client.Do(tb.Context(), r.Client, kmsapi.CreateKey, &in)
	if err != nil {
		tb.Fatal(err)
	}
	return out.KeyMetadata
}

var multiID = regexp.MustCompile(`^mrk-[0-9a-f]{32}$`)

// TestMultiRegionKeys: a multi-Region key is said to be one wherever it is named, and
// is used as any other, by each of its names.
func TestMultiRegionKeys(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	m := createMulti(t, r, kmsapi.CreateKeyRequest{Description: "everywhere"})
	c := m.MultiRegionConfiguration
	if !multiID.MatchString(m.KeyId) || m.Arn != "arn:aws:kms:rack-1:"+racktest.Account.String()+":key/"+m.KeyId || !m.MultiRegion ||
		c.MultiRegionKeyType != kmsapi.MultiRegionPrimary || c.PrimaryKey != (kmsapi.MultiRegionKey{Arn: m.Arn, Region: "rack-1"}) || len(c.ReplicaKeys) != 0 {
		t.Fatalf("got %+v", m)
	}
	createAlias(t, r, "alias/everywhere", m.Arn)
	blob := encrypt(t, r, m.KeyId, []byte("x"))
	for _, name := range []string{m.KeyId, m.Arn, "alias/everywhere", api.Realm{Partition: "aws", Region: "rack-1"}.AliasARN(racktest.Account, "alias/everywhere")} {
		out, err := client.Do(t.Context(), r.Client, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: blob, KeyId: ref(name)})
		if err != nil || out.KeyId != m.Arn || string(out.Plaintext) != "x" {
			t.Errorf("%s decrypts to %+v, %v", name, out, err)
		}
		d, err := client.Do(t.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(name)})
		if err != nil || d.KeyMetadata.Arn != m.Arn || d.KeyMetadata.KeyId != m.KeyId || !d.KeyMetadata.MultiRegion {
			t.Errorf("%s is described as %+v, %v", name, d, err)
		}
	}
	if got, err := decrypt(t, r.Client, blob); err != nil || string(got) != "x" {
		t.Errorf("by the ciphertext alone: %q, %v", got, err)
	}
	if all := listAliases(t, r.Client, m.KeyId, 0); len(all) != 1 || all[0].TargetKeyId != m.KeyId {
		t.Errorf("its aliases are listed as %+v", all)
	}
	wantSound(t, r)
}

// TestMultiRegionKeysAreListed: ListKeys has them beside others.
func TestMultiRegionKeysAreListed(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	want := map[kmsapi.KeyListEntry]bool{}
	for range 4 {
		arn := r.CreateKey()
		m := createMulti(t, r, kmsapi.CreateKeyRequest{})
		want[kmsapi.KeyListEntry{KeyId: keyID(t, arn).String(), KeyArn: arn}] = true
		want[kmsapi.KeyListEntry{KeyId: m.KeyId, KeyArn: m.Arn}] = true
	}
	all, _ := listKeys(t, newDesk(r), rootOf(racktest.Account), 3)
	for _, e := range all {
		if !want[e] {
			t.Errorf("there is no such key, or it is listed twice: %+v", e)
		}
		delete(want, e)
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	r.Restart(nil)
	for _, e := range all {
		if _, err := encryptedBy(t, r.Client, e.KeyId); err != nil {
			t.Errorf("after a restart: %s: %v", e.KeyId, err)
		}
	}
}

// TestOneSpelling: a key has one id, as a UUID or as mrk-, and no other.
func TestOneSpelling(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	plain, m := r.CreateKey(), createMulti(t, r, kmsapi.CreateKeyRequest{})
	for was, other := range map[string]string{
		keyID(t, plain).String(): string(keyID(t, plain).AppendText(nil, true)),
		m.KeyId:                  string(keyID(t, m.Arn).AppendText(nil, false)),
	} {
		_, err := encryptedBy(t, r.Client, other)
		wantSays(t, err, "NotFoundException: Key 'arn:aws:kms:rack-1:"+racktest.Account.String()+":key/"+other+"' does not exist")
		if _, err := encryptedBy(t, r.Client, was); err != nil {
			t.Error(err)
		}
	}
}

// TestMultiRegionKeysOfEverySpec: the kind of a key has nothing to do with it.
func TestMultiRegionKeysOfEverySpec(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	mac := createMulti(t, r, kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecHMAC256, KeyUsage: kmsapi.UsageGenerateVerifyMac})
	code, err := generateMac(t, r, mac.Arn, kmsapi.HMACSHA256, []byte("x"))
	if err == nil {
		err = verifyMac(t, r, mac.Arn, kmsapi.HMACSHA256, []byte("x"), code)
	}
	if err != nil {
		t.Error(err)
	}
	signs := createMulti(t, r, kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecECCNISTP256, KeyUsage: kmsapi.UsageSignVerify})
	signature, err := sign(t, r, signs.Arn, kmsapi.ECDSASHA256, kmsapi.MessageRaw, []byte("x"))
	if err == nil {
		err = verify(t, r, signs.Arn, kmsapi.ECDSASHA256, kmsapi.MessageRaw, []byte("x"), signature)
	}
	if err != nil {
		t.Error(err)
	}
	if out, _ := publicKey(t, r, signs.KeyId); out.KeyId != signs.Arn {
		t.Errorf("the public key is said to be of %s", out.KeyId)
	}
}

// TestARowOfTheOtherKind: a row that says another kind than the id it stands under is
// not used, and keyrack check tells of it.
func TestARowOfTheOtherKind(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	kms.SetMulti(t, r.KMS(), keyID(t, arn), true)
	_, err := encryptedBy(t, r.Client, arn)
	wantKind(t, err, api.KindInternal)
	if all := problems(t, r); len(all) != 1 || !strings.Contains(all[0], "says multi-Region: true") {
		t.Errorf("got %q", all)
	}
}

// TestOtherRegionsAreRefused: what would need another region is decided and then refused.
func TestOtherRegionsAreRefused(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	plain, m := r.CreateKey(), createMulti(t, r, kmsapi.CreateKeyRequest{})
	replicate := func(c *client.Client, key, region string) error {
		_, err := client.Do(t.Context(), c, kmsapi.ReplicateKey, &kmsapi.ReplicateKeyRequest{KeyId: ref(key), ReplicaRegion: region})
		return err
	}
	move := func(c *client.Client, key, region string) error {
		_, err := client.Do(t.Context(), c, kmsapi.UpdatePrimaryRegion, &kmsapi.UpdatePrimaryRegionRequest{KeyId: ref(key), PrimaryRegion: region})
		return err
	}
	for name, try := range map[string]func(*client.Client, string, string) error{"ReplicateKey": replicate, "UpdatePrimaryRegion": move} {
		wantSays(t, try(r.Client, m.Arn, "rack-2"), "UnsupportedOperationException: "+name+" is not supported: this appliance is one region, rack-1, and no other has its keys")
		wantSays(t, try(r.Client, plain, "rack-2"), "UnsupportedOperationException: "+plain+" is not a multi-Region key.")
		for _, region := range []string{strings.Repeat("r", 33), "nowhere", "rack-", "Rack-1", "rack-1 ", "a-b-c-d-1"} {
			for _, key := range []string{m.Arn, noSuchID, "arn:aws:kms:x"} { // before it is known whether there is such a key
				wantSays(t, try(r.Client, key, region), "ValidationException: ")
			}
		}
		wantSays(t, try(r.Client, noSuchID, "rack-1"), "NotFoundException: ")
		wantSays(t, try(r.Client, plain, "rack-1"), "UnsupportedOperationException: "+plain+" is not a multi-Region key.")
		wantSays(t, try(r.Client, m.Arn, "us-gov-east-1"), "UnsupportedOperationException: "+name+" is not supported: this appliance is one region")
		wantKind(t, try(r.Client, "alias/none", "rack-2"), api.KindNotFound)
		wantKind(t, try(r.Stranger, m.Arn, "rack-2"), api.KindAccessDenied)
		kms.SetState(t, r.KMS(), keyID(t, m.Arn), kmsapi.StateDisabled)
		wantSays(t, try(r.Client, m.Arn, "rack-2"), "DisabledException: "+m.Arn+" is disabled.")
		kms.SetState(t, r.KMS(), keyID(t, m.Arn), kmsapi.StateEnabled)
	}
	wantSays(t, replicate(r.Client, m.Arn, "rack-1"), "AlreadyExistsException: Unable to replicate key "+m.Arn+" to region rack-1, as the key already exists there")
	wantSays(t, replicate(r.Stranger, m.Arn, "rack-1"), "AccessDeniedException: ")
	wantSays(t, move(r.Client, m.Arn, "rack-1"), "UnsupportedOperationException: "+m.Arn+" is the primary key already.")
	before := encrypt(t, r, m.Arn, []byte("x"))
	if got, err := decrypt(t, r.Client, before); err != nil || !bytes.Equal(got, []byte("x")) {
		t.Error("the key is not what it was")
	}
}

// TestCustomKeyStores: there are none, and none can be made.
func TestCustomKeyStores(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	describe := func(c *client.Client, in kmsapi.DescribeCustomKeyStoresRequest) error {
		out, err := client.Do(t.Context(), c, kmsapi.DescribeCustomKeyStores, &in)
		if err == nil && (len(out.CustomKeyStores) > 0 || out.Truncated || out.NextMarker != "") {
			t.Errorf("got %+v", out)
		}
		return err
	}
	wantKind(t, describe(r.Client, kmsapi.DescribeCustomKeyStoresRequest{}), api.KindNone)
	wantKind(t, describe(r.Client, kmsapi.DescribeCustomKeyStoresRequest{Limit: 1}), api.KindNone)
	wantKind(t, describe(r.Client, kmsapi.DescribeCustomKeyStoresRequest{CustomKeyStoreId: "cks-1"}), api.KindCustomKeyStoreNotFound)
	wantKind(t, describe(r.Client, kmsapi.DescribeCustomKeyStoresRequest{CustomKeyStoreName: "hsm"}), api.KindCustomKeyStoreNotFound)
	wantKind(t, describe(r.Client, kmsapi.DescribeCustomKeyStoresRequest{CustomKeyStoreId: "cks-1", CustomKeyStoreName: "hsm"}), api.KindValidation)
	wantKind(t, describe(r.Client, kmsapi.DescribeCustomKeyStoresRequest{Marker: "x"}), api.KindInvalidMarker)
	wantKind(t, describe(r.Operator, kmsapi.DescribeCustomKeyStoresRequest{}), api.KindAccessDenied)

	_, err := client.Do(t.Context(), r.Client, kmsapi.CreateCustomKeyStore, &kmsapi.CreateCustomKeyStoreRequest{CustomKeyStoreName: "hsm"})
	wantSays(t, err, "UnsupportedOperationException: CreateCustomKeyStore is not supported: ")
	_, err = client.Do(t.Context(), r.Client, kmsapi.UpdateCustomKeyStore, &kmsapi.UpdateCustomKeyStoreRequest{CustomKeyStoreId: "cks-1"})
	wantSays(t, err, "UnsupportedOperationException: UpdateCustomKeyStore is not supported: ")
	_, err = client.Do(t.Context(), r.Client, kmsapi.DeleteCustomKeyStore, &kmsapi.DeleteCustomKeyStoreRequest{CustomKeyStoreId: "cks-1"})
	wantSays(t, err, "UnsupportedOperationException: DeleteCustomKeyStore is not supported: ")
	_, err = client.Do(t.Context(), r.Client, kmsapi.ConnectCustomKeyStore, &kmsapi.ConnectCustomKeyStoreRequest{CustomKeyStoreId: "cks-1"})
	wantSays(t, err, "UnsupportedOperationException: ConnectCustomKeyStore is not supported: ")
	_, err = client.Do(t.Context(), r.Client, kmsapi.DisconnectCustomKeyStore, &kmsapi.DisconnectCustomKeyStoreRequest{CustomKeyStoreId: "cks-1"})
	wantSays(t, err, "UnsupportedOperationException: DisconnectCustomKeyStore is not supported: ")
	_, err = client.Do(t.Context(), r.Operator, kmsapi.ConnectCustomKeyStore, &kmsapi.ConnectCustomKeyStoreRequest{CustomKeyStoreId: "cks-1"})
	wantKind(t, err, api.KindAccessDenied)
}
