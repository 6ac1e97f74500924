package access_test

import (
	"bytes"
	"testing"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// door is a session at the door of a running appliance, with requests ready to
// be served.
type door struct {
	session *access.Session
	encrypt access.Route
	decrypt access.Route
	sealed  []byte // body of an Encrypt of 32 bytes
	opened  []byte // body of a Decrypt of that
}

func newDoor(tb testing.TB) *door {
	tb.Helper()
	r := racktest.Start(tb)
	d := &door{session: r.Gate().Session(tb.Context(), identity.Always(r.Principals[0]), "test")}
	tb.Cleanup(d.session.Close)
	for _, route := range r.Routes() {
		switch route.Op() {
		case kmsapi.Encrypt.Op:
			d.encrypt = route
		case kmsapi.Decrypt.Op:
			d.decrypt = route
		}
	}
	in := &kmsapi.EncryptRequest{
		KeyId: api.ParseKeyRef([]byte(r.CreateKey())), Plaintext: bytes.Repeat([]byte{7}, 32),
		EncryptionContext: api.NewEncryptionContext(map[string]string{"service": "payments"}),
	}
	d.sealed = kmsapi.Encrypt.In.AppendCBOR(nil, in)
	out, err := client.Do(tb.Context(), r.Client, kmsapi.Encrypt, in)
	if err != nil {
		tb.Fatal(err)
	}
	d.opened = kmsapi.Decrypt.In.AppendCBOR(nil, &kmsapi.DecryptRequest{CiphertextBlob: out.CiphertextBlob, EncryptionContext: in.EncryptionContext})
	return d
}

// burst serves a burst of 64 calls and waits for its records.
func (d *door) burst(tb testing.TB, route access.Route, body []byte) {
	for id := range 64 {
		if class := route.Serve(d.session.Call(api.RequestID(id+1)), protocol.Native{}, body); class != work.None {
			tb.Fatalf("yielded for %s", class)
		}
	}
	held := d.session.Flush(false)
	if _, err := held.Bytes(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	held.Release()
}

// TestServeAllocs holds the promise that the hot path makes no garbage: a call
// decoded, decided, carried out, recorded and answered. What the log's batches
// cost is shared by the calls of a burst.
func TestServeAllocs(t *testing.T) {
	d := newDoor(t)
	for name, c := range map[string]struct {
		route access.Route
		body  []byte
	}{"Encrypt": {d.encrypt, d.sealed}, "Decrypt": {d.decrypt, d.opened}} {
		d.burst(t, c.route, c.body)
		serve := racktest.Allocs(60, func() { c.route.Serve(d.session.Call(1), protocol.Native{}, c.body) }, func() { held := d.session.Flush(false); held.Release() })
		burst := racktest.Allocs(100, func() { d.burst(t, c.route, c.body) }, func() {})
		t.Logf("%s: %.0f allocations an operation; with its share of the log's batches %.2f", name, serve, burst/64)
		if serve != 0 || burst >= 64 {
			t.Errorf("%s: %.0f allocations an operation and %.0f a burst of 64, want 0 and less than 64", name, serve, burst)
		}
	}
}

func BenchmarkServe(b *testing.B) {
	d := newDoor(b)
	for name, c := range map[string]struct {
		route access.Route
		body  []byte
	}{"Encrypt": {d.encrypt, d.sealed}, "Decrypt": {d.decrypt, d.opened}} {
		b.Run(name+"/32", func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				c.route.Serve(d.session.Call(1), protocol.Native{}, c.body)
				if n%64 == 63 {
					held := d.session.Flush(false)
					held.Release()
				}
			}
		})
	}
}
