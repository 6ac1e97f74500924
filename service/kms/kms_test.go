package kms_test

import (
	"bytes"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

func TestEncryptDecrypt(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	ctx := t.Context()
	plaintext := []byte("attack at dawn")
	sealed, err := client.Do(ctx, r.Client, kmsapi.Encrypt, &kmsapi.EncryptRequest{
		KeyId: api.ParseKeyRef([]byte(arn)), Plaintext: plaintext,
		EncryptionContext: api.NewEncryptionContext(map[string]string{"purpose": "test"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := client.Do(ctx, r.Client, kmsapi.Decrypt, &kmsapi.DecryptRequest{
		CiphertextBlob:    sealed.CiphertextBlob,
		EncryptionContext: api.NewEncryptionContext(map[string]string{"purpose": "test"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(opened.Plaintext, plaintext) || opened.KeyId != arn {
		t.Errorf("got %d bytes of %s", len(opened.Plaintext), opened.KeyId)
	}
}
