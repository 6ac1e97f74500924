package api_test

import (
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
)

// TestRepliesOfALaterVersion: a server may say more than its client knows. The
// same bytes are refused where they come as a request.
func TestRepliesOfALaterVersion(t *testing.T) {
	t.Parallel()
	body := cbor.AppendMap(nil, 5)
	body = cbor.AppendBytes(cbor.AppendUint(body, 1), []byte("blob"))
	body = cbor.AppendText(cbor.AppendUint(body, 2), "arn")
	body = cbor.AppendUint(cbor.AppendUint(body, 3), 200) // an algorithm yet to come
	body = cbor.AppendMap(cbor.AppendUint(body, 40), 1)   // and a member
	body = cbor.AppendText(cbor.AppendUint(body, 1), "new")
	body = cbor.AppendBool(cbor.AppendUint(body, 200), true)
	var out kmsapi.EncryptResponse
	if err := kmsapi.Encrypt.Out.DecodeReply(body, &out); err != nil || string(out.CiphertextBlob) != "blob" || out.KeyId != "arn" || out.EncryptionAlgorithm != 0 {
		t.Errorf("got %+v, %v", out, err)
	}
	if err := kmsapi.Encrypt.Out.DecodeCBOR(body, new(kmsapi.EncryptResponse)); api.KindOf(err) != api.KindSerialization {
		t.Errorf("as ours: %v", err)
	}
	for name, bad := range map[string][]byte{"cut": body[:len(body)-1], "longer": append(body[:len(body):len(body)], 0), "no map": {0x01}} {
		if err := kmsapi.Encrypt.Out.DecodeReply(bad, &out); api.KindOf(err) != api.KindSerialization {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
