package fuzz_test

import (
	"math/rand/v2"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/fuzz"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/protocol"
)

// seeds returns a source of random numbers that gives a target the same seeds
// at every run.
func seeds() *rand.Rand { return rand.New(rand.NewPCG(2026, 1)) }

// FuzzFrame reads a stream as either side does: see checkStream.
func FuzzFrame(f *testing.F) {
	rng := seeds()
	for i, op := range table.All() {
		out := op.NewOut()
		fuzz.Fill(rng, op.Out, out)
		f.Add(protocol.AppendRequest(nil, api.RequestID(i+1), op, fuzz.Request(rng, op)))
		f.Add(protocol.Native{}.AppendReply(nil, op, api.RequestID(i+1), out, nil))
	}
	f.Add(protocol.AppendError(nil, 0, &api.Error{Kind: api.KindThrottling, Message: "m", RetryAfter: 1e9, Reason: "r"}))
	f.Add([]byte{0, 2, 0, 1})
	f.Fuzz(checkStream)
}

// FuzzRequest decodes a body as the request of one operation: see checkRequest.
func FuzzRequest(f *testing.F) {
	rng := seeds()
	for i, op := range table.All() {
		for range 4 {
			f.Add(byte(i), op.In.AppendCBOR(nil, fuzz.Request(rng, op)))
		}
		f.Add(byte(i), []byte{0xa0})
	}
	f.Fuzz(func(t *testing.T, pick byte, body []byte) {
		ops := table.All()
		checkRequest(t, ops[int(pick)%len(ops)], body)
	})
}

// FuzzRequestJSON does the same with JSON: see checkJSON.
func FuzzRequestJSON(f *testing.F) {
	rng := seeds()
	for i, op := range table.All() {
		for range 4 {
			f.Add(byte(i), op.In.AppendJSON(nil, fuzz.Request(rng, op)))
		}
	}
	f.Fuzz(func(t *testing.T, pick byte, body []byte) {
		ops := table.All()
		checkJSON(t, ops[int(pick)%len(ops)], body)
	})
}

// FuzzKeyRef parses a key reference: what has a form is written in no other way.
func FuzzKeyRef(f *testing.F) {
	rng := seeds()
	for range 20 {
		f.Add(fuzz.KeyRef(rng).Text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r := api.ParseKeyRef(text)
		if again := minted(&r); r.Form != api.RefInvalid && r.Form != api.RefBadARN && again != string(text) || r.String() != string(text) {
			t.Errorf("%q is read as %+v, which is written %q", text, r, again)
		}
	})
}

// FuzzContext parses an encryption context: the reference decoder accepts the
// same bytes, and nothing else has the same pairs.
func FuzzContext(f *testing.F) {
	rng := seeds()
	for range 10 {
		f.Add([]byte(fuzz.Context(rng)))
	}
	f.Add([]byte{0xa1, 0x60, 0x61, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := api.ParseEncryptionContext(b)
		var pairs map[string]string
		if library := cbor.Unmarshal(b, &pairs); (err == nil) != (library == nil) {
			t.Fatalf("%v, but the reference says %v", err, library)
		}
		if again := api.NewEncryptionContext(pairs); err == nil && string(again) != string(c) {
			t.Errorf("%x is written as %x", b, again)
		}
	})
}

// FuzzSetText types a value for each member: nothing panics, and what is taken
// the appliance can read.
func FuzzSetText(f *testing.F) {
	for _, text := range []string{"alias/a", "SYMMETRIC_DEFAULT", "true", "k=v", "12", `{"TagKey":"k","TagValue":""}`, "2026-01-02T03:04:05Z"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range []*api.Struct{kmsapi.CreateKey.In, kmsapi.Decrypt.In} {
			checkTyped(t, s, text)
		}
	})
}
