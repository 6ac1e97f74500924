package access_test

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// unknownKey is the id of a key that does not exist.
const unknownKey = "00000000-0000-4000-8000-000000000000"

// TestEveryOperationIsGated walks every route of the appliance as somebody whom
// nothing allows anything. Each is refused, with one record; existing keys are
// answered like keys that do not exist; nothing is written.
func TestEveryOperationIsGated(t *testing.T) {
	t.Parallel()
	store := &counting{Store: keystore.NewMemory()}
	r := racktest.Start(t, func(c *rack.Config) { c.Store = store })
	g := &gated{Rack: r, tb: t, arn: r.CreateKey(), who: &identity.Principal{
		ARN: "arn:aws:iam::" + racktest.Other.String() + ":user/nobody", Account: racktest.Other, Credential: identity.KeyHash{9},
	}}
	g.encrypt()
	routes := map[*api.Op]access.Route{}
	for _, route := range r.Routes() {
		routes[route.Op()] = route
	}
	for _, op := range table.All() {
		route, served := routes[op]
		if !served {
			t.Errorf("nobody serves %s", op)
			continue
		}
		writes := store.writes.Load()
		for _, all := range []bool{false, true} {
			known, unknown := g.try(route, all, true), g.try(route, all, false)
			if known != unknown {
				t.Errorf("%s tells existing keys from others:\n%s\n%s", op, known, unknown)
			}
		}
		if n := store.writes.Load() - writes; n != 0 {
			t.Errorf("%s wrote %d rows", op, n)
		}
	}
	if len(routes) != len(table.All()) {
		t.Errorf("%d routes, %d operations in the table", len(routes), len(table.All()))
	}
}

type gated struct {
	*racktest.Rack
	tb   testing.TB
	arn  string
	blob []byte // a ciphertext of the key
	who  *identity.Principal
}

func (g *gated) encrypt() {
	g.tb.Helper()
	out, err := client.Do(g.tb.Context(), g.Client, kmsapi.Encrypt,
		&kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(g.arn)), Plaintext: api.Secret("petals")})
	if err != nil {
		g.tb.Fatal(err)
	}
	g.blob = out.CiphertextBlob
}

// try makes one call and returns what it was answered, with the names of keys
// taken out. all fills optional references to keys too; known says whether the
// request is about a key that exists.
func (g *gated) try(route access.Route, all, known bool) (answer string) {
	g.tb.Helper()
	op, before := route.Op(), len(g.Records())
	arn, blob := g.arn, bytes.Clone(g.blob)
	if !known {
		arn = arn[:len(arn)-len(unknownKey)] + unknownKey
		id := api.ParseKeyRef([]byte(arn)).ID
		copy(blob[1:], id[:])
	}
	in := op.NewIn()
	fill(reflect.ValueOf(in).Elem(), op.In, arn, blob, all)
	s := g.Gate().Session(g.tb.Context(), identity.Always(g.who), "test")
	defer s.Close()
	body := op.In.AppendCBOR(nil, in)
	for c := s.Call(7); route.Serve(c, protocol.Native{}, body) != work.None; {
		c = s.Again(g.tb.Context(), c.Ticket())
	}
	held := s.Flush(false)
	defer held.Release()
	b, err := held.Bytes(g.tb.Context())
	if err != nil {
		g.tb.Fatal(err)
	}
	frame, _, _, _ := protocol.Split(b, api.MaxReplyFrame)
	reply, err := protocol.ParseReply(frame)
	if err != nil || reply.Kind != api.KindAccessDenied {
		g.tb.Errorf("%s was answered %v (%v), want AccessDenied", op, reply.Kind, reply.Err())
	}
	g.recorded(op, before)
	return strings.NewReplacer(g.arn, "KEY", arn, "KEY").Replace(fmt.Sprint(reply.Err()))
}

// recorded checks that there is one record since before, of a refusal.
func (g *gated) recorded(op *api.Op, before int) {
	g.tb.Helper()
	all := g.Records()[before:]
	if len(all) != 1 {
		g.tb.Errorf("%s left %d records: %+v", op, len(all), all)
		return
	}
	if r := (audit.Record{Op: all[0].Op, Error: all[0].Error, Principal: all[0].Principal, Response: all[0].Response}); !reflect.DeepEqual(r,
		audit.Record{Op: op.Number, Error: uint16(api.KindAccessDenied), Principal: g.who.ARN}) {
		g.tb.Errorf("%s is recorded as %+v", op, all[0])
	}
}

// fill makes a request that decodes: what is required, the ciphertext where one
// is asked for, and with all set every reference to a key.
func fill(v reflect.Value, table *api.Struct, arn string, blob []byte, all bool) {
	for _, f := range table.Fields {
		m := v.FieldByName(f.Name)
		switch {
		case f.Shape == api.ShapeKeyRef && (f.Required || all):
			m.Set(reflect.ValueOf(api.ParseKeyRef([]byte(arn))))
		case f.Shape == api.ShapeBlob && strings.HasPrefix(f.Name, "Ciphertext"):
			m.SetBytes(blob)
		case f.Name == "NumberOfBytes": // one of two members that are required
			m.SetInt(f.Min)
		case f.Name == "ValidTo": // required with the default of another member
			m.SetInt(time.Now().Add(time.Hour).UnixMicro())
		case !f.Required:
		case f.Pattern != nil:
			m.SetString(f.Pattern.Example)
		case f.Shape == api.ShapeText:
			m.SetString(strings.Repeat("x", int(max(f.Min, 1))))
		case f.Shape == api.ShapeSecret, f.Shape == api.ShapeBlob:
			m.SetBytes(make([]byte, max(f.Min, 1)))
		case f.Shape == api.ShapeInt:
			m.SetInt(max(f.Min, 0))
		case f.Shape == api.ShapeEnum:
			m.SetUint(1)
		case f.Shape == api.ShapeList && f.Elem.Shape == api.ShapeText:
			m.Set(reflect.Append(m, reflect.ValueOf("x")))
		case f.Shape == api.ShapeList && f.Elem.Shape == api.ShapeStruct:
			item := reflect.New(m.Type().Elem()).Elem()
			fill(item, f.Elem.Struct, arn, blob, all)
			m.Set(reflect.Append(m, item))
		}
	}
}

// counting counts the rows that are written, but for those of the outbox going.
type counting struct {
	keystore.Store
	writes atomic.Int64
}

func (c *counting) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	return c.Store.Update(ctx, func(tx keystore.Tx) error { return f(countingTx{tx, c}) })
}

type countingTx struct {
	keystore.Tx
	of *counting
}

func (t countingTx) Put(n keystore.Name, value []byte) error {
	switch s := n.Space(); {
	case !s.Sealed(), s == keystore.SpaceOutboxCount: // they follow from every change, also of rows that are cleared away
	case s == keystore.SpaceClock, s == keystore.SpaceKeyUsage, s == keystore.SpaceUsagePos: // written beside all calls; a call's write has a row in the outbox, too
	default:
		t.of.writes.Add(1)
	}
	return t.Tx.Put(n, value)
}
