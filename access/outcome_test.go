package access_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestWhatTheStoreSays is told to the caller in words of what to do, and with
// no row's name; to the person on call with all there is, where that helps.
func TestWhatTheStoreSays(t *testing.T) {
	t.Parallel()
	const row = "material/0x2a"
	for name, c := range map[string]struct {
		err    error
		kind   api.Kind
		reason string
		words  string // that tell what to do
		logged bool
		warns  bool
	}{
		"locked":  {keystore.ErrLocked, api.KindUnavailable, "locked", "keyrack unlock", false, false},
		"damaged": {keystore.ErrDamaged, api.KindInternal, "store-damaged", "keyrack check", true, true},
		"full":    {fmt.Errorf("%w: %w", keystore.ErrFull, syscall.ENOSPC), api.KindUnavailable, "store", "make room", true, false},
		"of a kind": {fmt.Errorf("%w", &api.Error{Kind: api.KindKeyUnavailable, Message: "the token is gone", Err: keystore.ErrFull}),
			api.KindKeyUnavailable, "", "gone", true, false},
		"something else": {errors.New("it broke"), api.KindInternal, "", "log says why", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for _, err := range []error{fmt.Errorf("load key: %w: %s", c.err, row), api.Internal(fmt.Errorf("%s: %w", row, c.err))} {
				if _, ok := errors.AsType[*api.Error](c.err); ok {
					err = c.err
				}
				reply := r.call(root, access.Handle(r.Gate, change, func(c *access.Call, _ *ask, _ *answer) error {
					c.Admit(thing{})
					return err
				}), goodBody)
				told, _ := errors.AsType[*api.Error](reply.Err())
				if told == nil || told.Kind != c.kind || told.Reason != c.reason || !strings.Contains(told.Message, c.words) || strings.Contains(told.Error(), row) {
					t.Errorf("%v was answered %+v", err, told)
				}
				if rec := r.one(); rec.Error != uint16(c.kind) || rec.Reason != c.reason {
					t.Errorf("%v was recorded as %+v", err, rec)
				}
			}
			if lines := r.lines.String(); strings.Contains(lines, "level=ERROR") != c.logged || strings.Contains(lines, row) != (c.logged && name != "of a kind") {
				t.Errorf("the person on call reads: %q", lines)
			}
			if all := r.Warnings(); (len(all) > 0) != c.warns || c.warns && !strings.HasPrefix(all[0], "2 reads") {
				t.Errorf("warnings: %q", all)
			}
		})
	}
}

// TestNestedDamageCountsOnce: the call that was made for another one has its own
// record, and both tell of one read.
func TestNestedDamageCountsOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	reply := r.call(root, access.Handle(r.Gate, change, func(c *access.Call, in *ask, out *answer) error {
		c.Admit(thing{})
		return access.Nest(c.Via("outer"), look, func(c *access.Call, _ *ask, _ *answer) error {
			c.Admit(thing{})
			return fmt.Errorf("row: %w", keystore.ErrDamaged)
		}, in, out)
	}), goodBody)
	if told, _ := errors.AsType[*api.Error](reply.Err()); told == nil || told.Reason != "store-damaged" {
		t.Errorf("answered %v", reply.Err())
	}
	if all := r.Warnings(); len(all) != 1 || !strings.HasPrefix(all[0], "1 read was") {
		t.Errorf("warnings: %q", all)
	}
	if all := r.records(); len(all) != 2 || all[0].Reason != "store-damaged" || all[1].Reason != "store-damaged" {
		t.Errorf("records: %+v", all)
	}
}

// TestDamageThroughTheWholeAppliance: somebody edits the medium under a running
// appliance, and the next read of that row is refused, told and counted.
func TestDamageThroughTheWholeAppliance(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	r := racktest.Start(t, func(c *rack.Config) { c.Store = below })
	arn, other := r.CreateKey(), r.CreateKey()
	encrypt := func(key string) error {
		_, err := client.Do(t.Context(), r.Client, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key)), Plaintext: api.Secret("rose")})
		return err
	}
	if err := encrypt(arn); err != nil {
		t.Fatal(err)
	}
	ref := api.ParseKeyRef([]byte(arn))
	row := keystore.MakeName(keystore.SpaceKey, string(ref.ID[:]))
	if _, err := below.Update(t.Context(), func(tx keystore.Tx) error {
		value, err := tx.Get(row)
		if err != nil {
			return err
		}
		value = bytes.Clone(value)
		value[len(value)-1] ^= 1
		return tx.Put(row, value)
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		told, _ := errors.AsType[*api.Error](encrypt(arn))
		if told == nil || told.Kind != api.KindInternal || told.Reason != "store-damaged" || strings.Contains(told.Message, "key/") {
			t.Errorf("answered %+v", told)
		}
	}
	if err := encrypt(other); err != nil {
		t.Errorf("another key: %v", err)
	}
	status, err := client.Do(t.Context(), r.Operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil || !slices.Contains(status.Warnings, "2 reads were refused because the store was edited or is damaged: run keyrack check") {
		t.Errorf("status warns of %q, %v", status.Warnings, err)
	}
}
