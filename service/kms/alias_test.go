package kms_test

import (
	"testing"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

func createAlias(tb testing.TB, r *racktest.Rack, name, key string) {
	tb.Helper()
	if _, err := client.Do(tb.Context(), r.Client, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: name, TargetKeyId: ref(key)}); err != nil {
		tb.Fatal(err)
	}
}

func updateAlias(tb testing.TB, r *racktest.Rack, name, key string) {
	tb.Helper()
	if _, err := client.Do(tb.Context(), r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: name, TargetKeyId: ref(key)}); err != nil {
		tb.Fatal(err)
	}
}

// encryptedBy returns the ARN of the key that Encrypt uses for a reference.
func encryptedBy(tb testing.TB, c *client.Client, key string) (arn string, err error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(key), Plaintext: []byte("x")})
	if err != nil {
		return "", err
	}
	return out.KeyId, nil
}

// TestAnAliasNamesItsKeyAtOnce: creation, change and deletion act on the next
// request, by name and by ARN, of Encrypt, Decrypt and DescribeKey.
func TestAnAliasNamesItsKeyAtOnce(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	const name, aliasARN = "alias/invoices", "arn:aws:kms:rack-1:111122223333:alias/invoices"
	first, second := r.CreateKey(), r.CreateKey()
	createAlias(t, r, name, first)
	for _, want := range []string{first, second, first} {
		for _, by := range []string{name, aliasARN} {
			if got, err := encryptedBy(t, r.Client, by); err != nil || got != want {
				t.Errorf("Encrypt by %s used %s, %v, want %s", by, got, err, want)
			}
			d, err := client.Do(t.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(by)})
			if err != nil || d.KeyMetadata.Arn != want {
				t.Errorf("DescribeKey of %s told of %s, %v, want %s", by, d.KeyMetadata.Arn, err, want)
			}
			o, err := client.Do(t.Context(), r.Client, kmsapi.Decrypt, &kmsapi.DecryptRequest{KeyId: ref(by), CiphertextBlob: encrypt(t, r, want, []byte("x"))})
			if err != nil || o.KeyId != want {
				t.Errorf("Decrypt by %s: %+v, %v", by, o, err)
			}
		}
		next := map[string]string{first: second, second: first}[want]
		updateAlias(t, r, name, next)
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: name}); err != nil {
		t.Fatal(err)
	}
	for _, by := range []string{name, aliasARN} {
		_, err := encryptedBy(t, r.Client, by)
		wantSays(t, err, "NotFoundException: Alias "+aliasARN+" is not found.")
	}
}

// wantSays checks the kind and text of an error, from the beginning on.
func wantSays(tb testing.TB, err error, want string) {
	tb.Helper()
	if err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
		tb.Errorf("got %v, want %s", err, want)
	}
}
