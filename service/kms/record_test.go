package kms_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestRecordsOfKeysAndAliases: the one record of each operation names what it
// concerned, an alias and all keys of it, and shows what was asked.
func TestRecordsOfKeysAndAliases(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	first, second := r.CreateKey(), r.CreateKey()
	const alias = "arn:aws:kms:rack-1:111122223333:alias/a"
	ctx := t.Context()
	for _, c := range []struct {
		op       *api.Op
		do       func() error
		resource string
		in       any // the shown members
	}{
		{kmsapi.CreateAlias.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: "alias/a", TargetKeyId: ref(first)})
			return err
		}, alias + " " + first, &kmsapi.CreateAliasRequest{AliasName: "alias/a", TargetKeyId: ref(first)}},
		{kmsapi.Encrypt.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref("alias/a"), Plaintext: []byte("x")})
			return err
		}, first, &kmsapi.EncryptRequest{KeyId: ref("alias/a"), EncryptionAlgorithm: kmsapi.SymmetricDefault}},
		{kmsapi.UpdateAlias.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: "alias/a", TargetKeyId: ref(second)})
			return err
		}, alias + " " + second + " " + first, &kmsapi.UpdateAliasRequest{AliasName: "alias/a", TargetKeyId: ref(second)}},
		{kmsapi.UpdateAlias.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: "alias/a", TargetKeyId: ref(second)})
			return err
		}, alias + " " + second, &kmsapi.UpdateAliasRequest{AliasName: "alias/a", TargetKeyId: ref(second)}},
		{kmsapi.ListAliases.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: ref(second), Limit: 1})
			return err
		}, "*", &kmsapi.ListAliasesRequest{KeyId: ref(second)}},
		{kmsapi.DeleteAlias.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: "alias/a"})
			return err
		}, alias + " " + second, &kmsapi.DeleteAliasRequest{AliasName: "alias/a"}},
		{kmsapi.DisableKey.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(first)})
			return err
		}, first, &kmsapi.DisableKeyRequest{KeyId: ref(first)}},
		{kmsapi.EnableKey.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(first)})
			return err
		}, first, &kmsapi.EnableKeyRequest{KeyId: ref(first)}},
		{kmsapi.DescribeKey.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(first)})
			return err
		}, first, &kmsapi.DescribeKeyRequest{KeyId: ref(first)}},
		{kmsapi.UpdateKeyDescription.Op, func() error { return describeAs(t, r.Client, first, "x") }, first,
			&kmsapi.UpdateKeyDescriptionRequest{KeyId: ref(first), Description: "x"}},
		{kmsapi.TagResource.Op, func() error { return tagResource(t, r.Client, first, tags("a", "1", "b", "")) }, first,
			&kmsapi.TagResourceRequest{KeyId: ref(first), Tags: tags("a", "1", "b", "")}},
		{kmsapi.ListResourceTags.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.ListResourceTags, &kmsapi.ListResourceTagsRequest{KeyId: ref(first), Limit: 1})
			return err
		}, first, &kmsapi.ListResourceTagsRequest{KeyId: ref(first)}},
		{kmsapi.UntagResource.Op, func() error { return untagResource(t, r.Client, first, "a", "none") }, first,
			&kmsapi.UntagResourceRequest{KeyId: ref(first), TagKeys: []string{"a", "none"}}},
		{kmsapi.ListKeys.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: 1})
			return err
		}, "*", nil},
	} {
		before := len(r.Records())
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.op, err)
		}
		records := r.Records()[before:]
		if len(records) != 1 {
			t.Fatalf("%s left %d records", c.op, len(records))
		}
		var shown []byte
		if c.in != nil {
			shown = c.op.In.AppendAudit(nil, c.in)
		}
		if got := records[0]; got.Op != c.op.Number || got.Error != 0 || got.Resource != c.resource || !bytes.Equal(got.Request, shown) || got.Response != nil {
			t.Errorf("%s is recorded as %+v, want the resource %s and the members %x", c.op, got, c.resource, shown)
		}
	}
}

// TestRecordOfAKeyWithTags: a creation shows the tags, and concerns one resource,
// although the door is asked twice.
func TestRecordOfAKeyWithTags(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	if _, err := createTagged(t, r.Client, tags("a", "1", "b", "")); err != nil {
		t.Fatal(err)
	}
	records := r.Records()
	got := records[len(records)-1]
	shown := kmsapi.CreateKey.In.AppendAudit(nil, &kmsapi.CreateKeyRequest{Origin: kmsapi.OriginAWSKMS, Tags: tags("a", "1", "b", "")})
	if got.Op != kmsapi.CreateKey.Number || got.Resource != "*" || !bytes.Equal(got.Request, shown) || !bytes.Contains(shown, []byte("\x82\xa2\x01\x61a\x02\x611\xa1\x01\x61b")) {
		t.Errorf("it is recorded as %+v, want the members %x", got, shown)
	}
}

// TestEncryptByAliasAllocatesNothing: an alias costs no garbage, however long
// its name is.
func TestEncryptByAliasAllocatesNothing(t *testing.T) {
	r := racktest.Start(t)
	d, name := newDesk(r), "alias/"+strings.Repeat("long", 62)
	createAlias(t, r, name, r.CreateKey())
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	for _, by := range []string{name, "arn:aws:kms:rack-1:111122223333:" + name} {
		if _, err := encryptedBy(t, r.Client, by); err != nil {
			t.Fatal(err)
		}
		body := kmsapi.Encrypt.In.AppendCBOR(nil, &kmsapi.EncryptRequest{KeyId: ref(by), Plaintext: make(api.Secret, 32)})
		serve := func() {
			if class := d.routes[kmsapi.Encrypt.Op].Serve(s.Call(1), protocol.Native{}, body); class != work.None {
				t.Fatalf("Encrypt by %s yields for %s", by, class)
			}
		}
		serve()
		if n := racktest.Allocs(60, serve, func() { held := s.Flush(false); held.Release() }); n != 0 {
			t.Errorf("Encrypt by %s: %.0f allocations", by, n)
		}
	}
}
