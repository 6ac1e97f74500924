package kms_test

import (
	"testing"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// onKey are the operations whose answer depends on the state of a key.
var onKey = map[string]func(s *standing) error{
	"Encrypt": func(s *standing) error { _, err := encryptedBy(s.t, s.r.Client, s.arn); return err },
	"Decrypt": func(s *standing) error { _, err := decrypt(s.t, s.r.Client, s.blob); return err },
	"GenerateDataKey": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.GenerateDataKey, &kmsapi.GenerateDataKeyRequest{KeyId: ref(s.arn), KeySpec: kmsapi.AES256})
		return err
	},
	"GenerateDataKeyWithoutPlaintext": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.GenerateDataKeyWithoutPlaintext,
			&kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: ref(s.arn), KeySpec: kmsapi.AES256})
		return err
	},
	"ReEncrypt from it": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: s.blob, DestinationKeyId: ref(s.other)})
		return err
	},
	"ReEncrypt to it": func(s *standing) error {
		blob := encrypt(s.t, s.r, s.other, []byte("x"))
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(s.arn)})
		return err
	},
	"DescribeKey": func(s *standing) error {
		out, err := client.Do(s.t.Context(), s.r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(s.arn)})
		if err == nil && (out.KeyMetadata.KeyState != s.state || out.KeyMetadata.Enabled != (s.state == kmsapi.StateEnabled)) {
			s.t.Errorf("a key in state %s is described as %s, enabled: %t", s.state, out.KeyMetadata.KeyState, out.KeyMetadata.Enabled)
		}
		return err
	},
	"EnableKey": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(s.arn)})
		return err
	},
	"DisableKey": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(s.arn)})
		return err
	},
	"CreateAlias": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: "alias/new", TargetKeyId: ref(s.arn)})
		return err
	},
	"UpdateAlias to it": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: "alias/other", TargetKeyId: ref(s.arn)})
		return err
	},
	"UpdateAlias from it": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: "alias/its", TargetKeyId: ref(s.other)})
		return err
	},
	"DeleteAlias": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: "alias/its"})
		return err
	},
	"UpdateKeyDescription": func(s *standing) error { return describeAs(s.t, s.r.Client, s.arn, "x") },
	"TagResource":          func(s *standing) error { return tagResource(s.t, s.r.Client, s.arn, tags("a", "1")) },
	"UntagResource":        func(s *standing) error { return untagResource(s.t, s.r.Client, s.arn, "b") },
	"ListResourceTags": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.ListResourceTags, &kmsapi.ListResourceTagsRequest{KeyId: ref(s.arn)})
		return err
	},
	"ListAliases": func(s *standing) error {
		_, err := client.Do(s.t.Context(), s.r.Client, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: ref(s.arn)})
		return err
	},
}

// standing is a key in a state, with an alias, beside another one.
type standing struct {
	t          *testing.T
	r          *racktest.Rack
	arn, other string
	blob       []byte
	state      kmsapi.KeyState
}

// TestStates is the table "Key states of AWS KMS keys" of the AWS KMS developer
// guide, for the operations that there are.
func TestStates(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	s := &standing{t: t, r: r, arn: r.CreateKey(), other: r.CreateKey()}
	s.blob = encrypt(t, r, s.arn, []byte("x"))
	use := []string{"Encrypt", "Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncrypt from it", "ReEncrypt to it"}
	change, name := []string{"EnableKey", "DisableKey"}, []string{"CreateAlias", "UpdateAlias to it", "UpdateKeyDescription", "TagResource", "UntagResource"}
	for _, c := range []struct {
		state   kmsapi.KeyState
		says    string
		refused [][]string
	}{
		{kmsapi.StateEnabled, "", nil},
		{kmsapi.StateDisabled, "DisabledException: " + s.arn + " is disabled.", [][]string{use}},
		{kmsapi.StatePendingDeletion, "KMSInvalidStateException: " + s.arn + " is pending deletion.", [][]string{use, change, name}},
		{kmsapi.StatePendingReplicaDeletion, "KMSInvalidStateException: " + s.arn + " is pending replica deletion.", [][]string{use, change, name}},
		{kmsapi.StatePendingImport, "KMSInvalidStateException: " + s.arn + " is pending import.", [][]string{use, change}},
		{kmsapi.StateUnavailable, "KMSInvalidStateException: " + s.arn + " is unavailable.", [][]string{use, change}},
		{kmsapi.StateCreating, "KMSInvalidStateException: " + s.arn + " is creating.", [][]string{use, change}},
		{kmsapi.StateUpdating, "KMSInvalidStateException: " + s.arn + " is updating.", [][]string{change}},
	} {
		refused := map[string]bool{}
		for _, group := range c.refused {
			for _, op := range group {
				refused[op] = true
			}
		}
		for op, try := range onKey {
			s.prepare(c.state)
			err := try(s)
			if refused[op] {
				wantSays(t, err, c.says)
			} else if err != nil {
				t.Errorf("%s of a key in state %s: %v", op, c.state, err)
			}
		}
	}
}

// prepare brings the key into a state and the aliases to where they were.
func (s *standing) prepare(state kmsapi.KeyState) {
	s.t.Helper()
	kms.SetState(s.t, s.r.KMS(), keyID(s.t, s.arn), kmsapi.StateEnabled)
	for _, name := range []string{"alias/new", "alias/its", "alias/other"} {
		client.Do(s.t.Context(), s.r.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: name}) // it need not exist
	}
	createAlias(s.t, s.r, "alias/its", s.arn)
	createAlias(s.t, s.r, "alias/other", s.other)
	s.state = state
	kms.SetState(s.t, s.r.KMS(), keyID(s.t, s.arn), state)
}

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
