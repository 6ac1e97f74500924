package kms_test

import (
	"testing"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestDisablingActsAtOnce: on the next request of every open connection, and by
// every name of the key.
func TestDisablingActsAtOnce(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, other := r.CreateKey(), r.NewClient(r.Config)
	createAlias(t, r, "alias/a", arn)
	blob := encrypt(t, r, arn, []byte("x"))
	for range 3 {
		for _, by := range []string{arn, "alias/a"} {
			if _, err := encryptedBy(t, other, by); err != nil {
				t.Errorf("an enabled key refuses: %v", err)
			}
		}
		for range 2 { // twice is as good as once
			if _, err := client.Do(t.Context(), r.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(keyID(t, arn).String())}); err != nil {
				t.Fatal(err)
			}
		}
		for _, by := range []string{arn, "alias/a"} {
			_, err := encryptedBy(t, other, by)
			wantSays(t, err, "DisabledException: "+arn+" is disabled.")
		}
		_, err := decrypt(t, other, blob)
		wantSays(t, err, "DisabledException: "+arn+" is disabled.")
		for range 2 {
			if _, err := client.Do(t.Context(), r.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(arn)}); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := decrypt(t, other, blob); err != nil || string(got) != "x" {
			t.Errorf("enabled again, it decrypts to %q, %v", got, err)
		}
	}
}
