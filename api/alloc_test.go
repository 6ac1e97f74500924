package api_test

import (
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// hot returns an Encrypt and a Decrypt as services send them, and the answers.
func hot() (enc kmsapi.EncryptRequest, encrypted kmsapi.EncryptResponse, dec kmsapi.DecryptRequest, decrypted kmsapi.DecryptResponse) {
	const key = arn + "key/" + uuid
	context := api.NewEncryptionContext(map[string]string{"tenant": "4711", "purpose": "backup"})
	enc = kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key)), Plaintext: make(api.Secret, 32), EncryptionContext: context}
	encrypted = kmsapi.EncryptResponse{CiphertextBlob: make(api.Blob, 137), KeyId: key, EncryptionAlgorithm: kmsapi.SymmetricDefault}
	dec = kmsapi.DecryptRequest{CiphertextBlob: encrypted.CiphertextBlob, EncryptionContext: context}
	decrypted = kmsapi.DecryptResponse{KeyId: key, Plaintext: enc.Plaintext, EncryptionAlgorithm: kmsapi.SymmetricDefault, KeyMaterialId: "00"}
	return enc, encrypted, dec, decrypted
}

// TestHotPathAllocatesNothing checks what is promised of speed, for what
// this package does of an Encrypt and a Decrypt.
func TestHotPathAllocatesNothing(t *testing.T) {
	enc, encrypted, dec, decrypted := hot()
	encBody, decBody := kmsapi.Encrypt.In.AppendCBOR(nil, &enc), kmsapi.Decrypt.In.AppendCBOR(nil, &dec)
	encIn, decIn, dst := new(kmsapi.EncryptRequest), new(kmsapi.DecryptRequest), make([]byte, 0, 1024)
	for name, f := range map[string]func(){
		"decode Encrypt": func() {
			*encIn = kmsapi.EncryptRequest{}
			if err := kmsapi.Encrypt.In.DecodeCBOR(encBody, encIn); err != nil {
				t.Fatal(err)
			}
		},
		"decode Decrypt": func() {
			*decIn = kmsapi.DecryptRequest{}
			if err := kmsapi.Decrypt.In.DecodeCBOR(decBody, decIn); err != nil {
				t.Fatal(err)
			}
		},
		"encode Encrypt's answer": func() { dst = kmsapi.Encrypt.Out.AppendCBOR(dst[:0], &encrypted) },
		"encode Decrypt's answer": func() { dst = kmsapi.Decrypt.Out.AppendCBOR(dst[:0], &decrypted) },
		"audit Encrypt":           func() { dst = kmsapi.Encrypt.In.AppendAudit(dst[:0], &enc) },
		"audit Decrypt":           func() { dst = kmsapi.Decrypt.In.AppendAudit(dst[:0], &dec) },
		"audit the answer":        func() { dst = kmsapi.Decrypt.Out.AppendAudit(dst[:0], &decrypted) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	enc, _, _, _ := hot()
	body := kmsapi.Encrypt.In.AppendCBOR(nil, &enc)
	in := new(kmsapi.EncryptRequest)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		*in = kmsapi.EncryptRequest{}
		if err := kmsapi.Encrypt.In.DecodeCBOR(body, in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	_, encrypted, _, _ := hot()
	dst := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		dst = kmsapi.Encrypt.Out.AppendCBOR(dst[:0], &encrypted)
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkAudit(b *testing.B) {
	enc, _, _, _ := hot()
	dst := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		dst = kmsapi.Encrypt.In.AppendAudit(dst[:0], &enc)
	}
}
