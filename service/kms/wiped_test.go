package kms_test

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
)

// watched serves one request, hands the memory of its call to look when the
// method returns, and checks that nothing is left in it after the reply.
func watched[In, Out any](t *testing.T, r *racktest.Rack, op api.OpOf[In, Out], f func(*access.Call, *In, *Out) error, in *In, look func(memory []byte, out *Out)) {
	t.Helper()
	var memory []byte
	route := access.Handle(r.Gate(), op, func(c *access.Call, in *In, out *Out) error {
		memory = unsafe.Slice(&c.Bytes(1)[0], 8<<10) // a call's memory is one piece, larger than that
		err := f(c, in, out)
		if err != nil {
			t.Errorf("%s: %v", op, err)
		}
		look(memory, out)
		return err
	})
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	if class := route.Serve(s.Call(1), protocol.Native{}, op.In.AppendCBOR(nil, in)); class != work.None {
		t.Fatalf("%s yields for %s", op, class)
	}
	if n := bytes.Count(memory, []byte{0}); n != len(memory) {
		t.Errorf("%s: %d bytes of the call's memory are not wiped", op, len(memory)-n)
	}
	held := s.Flush(true)
	held.Release()
}

// TestPlaintextsAreWiped: they are made in memory that is wiped with the reply,
// and where the answer has none, before it.
func TestPlaintextsAreWiped(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, secret := r.CreateKey(), []byte("attack at dawn, not at dusk")
	blob := encrypt(t, r, arn, secret)
	within := func(memory, plaintext []byte) {
		t.Helper()
		if !bytes.Contains(memory, plaintext) {
			t.Error("the plaintext is not in the call's memory")
		}
	}
	watched(t, r, kmsapi.Decrypt, r.KMS().Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: blob}, func(memory []byte, out *kmsapi.DecryptResponse) {
		within(memory, secret)
		within(memory, out.Plaintext)
	})
	watched(t, r, kmsapi.GenerateDataKey, r.KMS().GenerateDataKey, &kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), NumberOfBytes: 64},
		func(memory []byte, out *kmsapi.GenerateDataKeyResponse) { within(memory, out.Plaintext) })
	watched(t, r, kmsapi.GenerateRandom, r.KMS().GenerateRandom, &kmsapi.GenerateRandomRequest{NumberOfBytes: 64},
		func(memory []byte, out *kmsapi.GenerateRandomResponse) { within(memory, out.Plaintext) })
	watched(t, r, kmsapi.ReEncrypt, r.KMS().ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(arn)},
		func(memory []byte, out *kmsapi.ReEncryptResponse) {
			within(memory, out.CiphertextBlob)
			if bytes.Contains(memory, secret[4:]) {
				t.Error("ReEncrypt returns with the plaintext in memory")
			}
		})
	hmacKey, code := createKey(t, r, kmsapi.KeySpecHMAC256, kmsapi.UsageGenerateVerifyMac), []byte(nil)
	generate := &kmsapi.GenerateMacRequest{KeyId: ref(hmacKey), Message: secret, MacAlgorithm: kmsapi.HMACSHA256}
	watched(t, r, kmsapi.GenerateMac, r.KMS().GenerateMac, generate, func(memory []byte, out *kmsapi.GenerateMacResponse) {
		within(memory, out.Mac)
		code = bytes.Clone(out.Mac)
	})
	watched(t, r, kmsapi.VerifyMac, r.KMS().VerifyMac, &kmsapi.VerifyMacRequest{KeyId: ref(hmacKey), Message: secret, MacAlgorithm: kmsapi.HMACSHA256, Mac: code},
		func(memory []byte, _ *kmsapi.VerifyMacResponse) {
			if bytes.Contains(memory, code[4:]) {
				t.Error("VerifyMac returns with the right code in memory")
			}
		})
	var after, sealed []byte
	watched(t, r, kmsapi.GenerateDataKeyWithoutPlaintext, r.KMS().GenerateDataKeyWithoutPlaintext,
		&kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: ref(arn), NumberOfBytes: 64},
		func(memory []byte, out *kmsapi.GenerateDataKeyWithoutPlaintextResponse) {
			within(memory, out.CiphertextBlob)
			after, sealed = bytes.Clone(memory), bytes.Clone(out.CiphertextBlob)
		})
	plaintext, err := decrypt(t, r.Client, sealed)
	if err != nil || len(plaintext) != 64 || bytes.Contains(after, plaintext[16:]) {
		t.Errorf("GenerateDataKeyWithoutPlaintext returns with the plaintext in memory, or it does not decrypt: %v", err)
	}
}

// foreign is a wire on which no plaintext stands as it is.
type foreign struct{ protocol.Native }

func (foreign) Decode(op *api.Op, body []byte, in any, mem api.Memory) error {
	return op.In.DecodeAWSJSON(body, in, mem)
}

// TestDecodedPlaintextsAreWiped: a plaintext that a wire had to decode is in memory that is wiped with the reply, and
// so it is where the call has to wait and is decoded anew.
func TestDecodedPlaintextsAreWiped(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, secret := r.CreateKey(), []byte("attack at dawn, not at dusk")
	body := kmsapi.Encrypt.In.AppendJSON(nil, &kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: secret}, api.AWSJSON)
	var seen api.Secret
	waits := true
	route := access.Handle(r.Gate(), kmsapi.Encrypt, func(c *access.Call, in *kmsapi.EncryptRequest, out *kmsapi.EncryptResponse) error {
		if seen = in.Plaintext; !bytes.Equal(seen, secret) {
			t.Errorf("decoded %q", []byte(seen))
		}
		if waits {
			return c.Need(work.Store)
		}
		return r.KMS().Encrypt(c, in, out)
	})
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	for _, waits = range []bool{true, false} {
		if class := route.Serve(s.Call(1), foreign{}, body); (class == work.Store) != waits {
			t.Fatalf("yields for %s", class)
		}
		if n := bytes.Count(seen, []byte{0}); n != len(secret) {
			t.Errorf("waiting=%t: %d bytes of the plaintext are left", waits, len(secret)-n)
		}
	}
	held := s.Flush(true)
	held.Release()
}
