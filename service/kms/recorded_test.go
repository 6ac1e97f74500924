package kms_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
)

// TestRecordsNameWhatAnswersDoNot: the materials of a rotation on demand, and with whom a secret was agreed on.
func TestRecordsNameWhatAnswersDoNot(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d := newDesk(r)
	arn := r.CreateKey()
	first := describe(t, r, arn).CurrentKeyMaterialId
	second := mustRotate(t, r, arn)
	own, err := ask(t, d, rootOf(racktest.Account), kmsapi.CreateKey, &ecdhKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(private.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	in := &kmsapi.DeriveSharedSecretRequest{KeyId: ref(own.KeyMetadata.Arn), KeyAgreementAlgorithm: 1, PublicKey: spki}
	out, err := ask(t, d, rootOf(racktest.Account), kmsapi.DeriveSharedSecret, in)
	if err != nil || len(out.PeerKeyDigest) > 0 {
		t.Fatalf("got %+v, %v", out, err)
	}
	digest := sha256.Sum256(spki)
	want := map[uint16][]byte{
		kmsapi.RotateKeyOnDemand.Number:  kmsapi.RotateKeyOnDemand.Out.AppendAudit(nil, &kmsapi.RotateKeyOnDemandResponse{KeyMaterialId: second, PreviousMaterialId: first}),
		kmsapi.DeriveSharedSecret.Number: kmsapi.DeriveSharedSecret.Out.AppendAudit(nil, &kmsapi.DeriveSharedSecretResponse{PeerKeyDigest: api.Blob(digest[:])}),
	}
	for _, rec := range r.Records() {
		if shown := want[rec.Op]; shown != nil {
			if !bytes.Equal(rec.Response, shown) {
				t.Errorf("operation %d is recorded with %x, want %x", rec.Op, rec.Response, shown)
			}
			delete(want, rec.Op)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d operations have no record", len(want))
	}
}

// TestUnsentMembersStandOnNoWire: neither in CBOR nor in what AWS's clients read.
func TestUnsentMembersStandOnNoWire(t *testing.T) {
	t.Parallel()
	table, full, bare := kmsapi.RotateKeyOnDemand.Out, &kmsapi.RotateKeyOnDemandResponse{KeyId: "k", KeyMaterialId: "a", PreviousMaterialId: "b"}, &kmsapi.RotateKeyOnDemandResponse{KeyId: "k"}
	if got, want := table.AppendCBOR(nil, full), table.AppendCBOR(nil, bare); !bytes.Equal(got, want) {
		t.Errorf("CBOR: %x, want %x", got, want)
	}
	if got, want := table.AppendRPC(nil, full), table.AppendRPC(nil, bare); !bytes.Equal(got, want) {
		t.Errorf("AWS's CBOR: %x, want %x", got, want)
	}
	if got, want := table.AppendJSON(nil, full), table.AppendJSON(nil, bare); !bytes.Equal(got, want) {
		t.Errorf("JSON: %s, want %s", got, want)
	}
}
