package racktest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

func ref(key string) api.KeyRef { return api.ParseKeyRef([]byte(key)) }

// encrypt asks for an encryption under a key.
func encrypt(key string) racktest.Ask {
	return func(ctx context.Context, c *client.Client) error {
		_, err := client.Do(ctx, c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(key), Plaintext: api.Secret("rose")})
		return err
	}
}

// decrypt asks for what was encrypted under a key.
func decrypt(t *testing.T, r *racktest.Rack, key string) racktest.Ask {
	t.Helper()
	made, err := client.Do(t.Context(), r.Client, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(key), Plaintext: api.Secret("rose")})
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, c *client.Client) error {
		_, err := client.Do(ctx, c, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: made.CiphertextBlob})
		return err
	}
}

// call returns a change that c makes.
func call[In, Out any](c *client.Client, op api.OpOf[In, Out], in *In) func() error {
	return func() error {
		_, err := client.Do(context.Background(), c, op, in)
		return err
	}
}

// stores are what an appliance's changes can go to.
var stores = map[string]func(*rack.Config){"memory": func(*rack.Config) {}, "disk": racktest.OnDisk}

// TestChangesActOnOpenConnections: once a change was answered, it holds for the
// next request of every connection, and for nobody whom it does not concern.
func TestChangesActOnOpenConnections(t *testing.T) {
	t.Parallel()
	for name, store := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := racktest.Start(t, store)
			r.Load(t, r.Config, 1, encrypt(r.CreateKey())) // to its end as it began
			t.Run("keys", func(t *testing.T) { changeKeys(t, r) })
			t.Run("aliases", func(t *testing.T) { changeAliases(t, r) })
			t.Run("principals", func(t *testing.T) { changePrincipals(t, r) })
		})
	}
}

func changeKeys(t *testing.T, r *racktest.Rack) {
	arn := r.CreateKey()
	load := r.Load(t, r.Config, 4, encrypt(arn), decrypt(t, r, arn))
	for range 5 {
		load.Change("DisableKey", call(r.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(arn)}), api.KindDisabled)
		load.Change("EnableKey", call(r.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(arn)}), api.KindNone)
	}
}

func changeAliases(t *testing.T, r *racktest.Rack) {
	const alias = "alias/billing"
	enabled, disabled := r.CreateKey(), r.CreateKey()
	create := call(r.Client, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: alias, TargetKeyId: ref(enabled)})
	disable := call(r.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(disabled)})
	for _, prepare := range []func() error{create, disable} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
	}
	load := r.Load(t, r.Config, 4, encrypt(alias))
	for range 3 {
		load.Change("UpdateAlias", call(r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: alias, TargetKeyId: ref(disabled)}), api.KindDisabled)
		load.Change("DeleteAlias", call(r.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: alias}), api.KindNotFound)
		load.Change("CreateAlias", create, api.KindNone)
	}
}

func changePrincipals(t *testing.T, r *racktest.Rack) {
	cfg := r.Config
	cfg.Certificate = r.Certificate("guest")
	hash := identity.HashOf(cfg.Certificate.Leaf.RawSubjectPublicKeyInfo).String()
	add := call(r.Operator, applianceapi.AddPrincipal, &applianceapi.AddPrincipalRequest{Name: "guest", Account: racktest.Account.String(), KeyHash: hash})
	if err := add(); err != nil {
		t.Fatal(err)
	}
	load := r.Load(t, cfg, 4, encrypt(r.CreateKey()))
	for range 3 {
		load.Change("RemovePrincipal", call(r.Operator, applianceapi.RemovePrincipal, &applianceapi.RemovePrincipalRequest{Name: "guest"}), api.KindUnrecognizedClient)
		load.Change("AddPrincipal", add, api.KindNone)
	}
}

// TestAPublishedDirectoryActsOnOpenConnections, whoever publishes it.
func TestAPublishedDirectoryActsOnOpenConnections(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	load := r.Load(t, r.Config, 4, encrypt(r.CreateKey()))
	publish := func(all ...*identity.Principal) func() error {
		return func() error { r.People().Publish(all); return nil }
	}
	for range 10 {
		load.Change("a removal", publish(r.Principals[1]), api.KindUnrecognizedClient)
		load.Change("a return", publish(r.Principals...), api.KindNone)
	}
}

// listener is a test that is told of failures and does not fail.
type listener struct {
	testing.TB
	mu    sync.Mutex
	heard []string // guarded by mu
}

func (l *listener) Errorf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, fmt.Sprintf(format, args...))
}

// TestALoadFindsChangesThatActLate, or where they should not.
func TestALoadFindsChangesThatActLate(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	disable := call(r.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(arn)})
	late := &listener{TB: t}
	load := r.Load(late, r.Config, 2, encrypt(arn))
	load.Change("a change that comes later", func() error { return nil }, api.KindDisabled)
	if len(late.heard) == 0 || !strings.Contains(late.heard[0], "a change that comes later") {
		t.Errorf("of a change that acts late one hears %q", late.heard)
	}
	late.heard = nil
	load.Change("the change", disable, api.KindDisabled)
	if load.Stop(); len(late.heard) > 0 {
		t.Errorf("of a change that acts at once one hears %q", late.heard)
	}
	if err := call(r.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(arn)})(); err != nil {
		t.Fatal(err)
	}

	hit := &listener{TB: t}
	load = r.Load(hit, r.Config, 2, encrypt(arn))
	load.Change("nothing", disable, api.KindNone)
	if load.Stop(); len(hit.heard) == 0 {
		t.Error("of a change that should not act one hears nothing")
	}
}
