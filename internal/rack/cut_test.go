package rack_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestCutAtEveryAuditWrite cuts the power of the audit log's disk at each of its writes, syncs and names in turn while
// an appliance works, and loses what was not synced; the store is on another disk and keeps what was committed. So the
// cut falls between every store commit and the sync of its record, too. What was acknowledged is there afterwards,
// every change that is to be seen has exactly one record, and check and verify find nothing.
func TestCutAtEveryAuditWrite(t *testing.T) {
	t.Parallel()
	for n, whole := 1, false; !whole; n++ {
		whole = cutAt(t, n)
		if t.Failed() {
			t.Fatalf("cut at use %d of the disk", n)
		}
		if whole {
			t.Logf("cut at each of %d uses of the disk", n-1)
		}
	}
}

// lasting is a store that an appliance does not close.
type lasting struct{ keystore.Store }

func (lasting) Close() error { return nil }

// cutAt cuts at the n-th use of the disk, and reports whether the story was told to its end before.
func cutAt(t *testing.T, n int) (whole bool) {
	t.Helper()
	disk, life := racktest.NewPlatter(), racktest.NewPower(1<<30)
	r := racktest.Start(t, func(c *rack.Config) {
		c.Store, c.AuditFiles, c.AuditBytes = lasting{keystore.NewMemory()}, disk.In(life), 64<<10
	})
	s := &story{c: r.NewClient(client.Config{Addr: r.Config.Addr, ServerKey: r.Config.ServerKey, Certificate: r.Config.Certificate, Retries: -1})}
	life.Last(n)
	whole = s.tell(t)
	life.Off()
	r.Restart(func(c *rack.Config) {
		disk.Lose()
		life = racktest.NewPower(1 << 30)
		c.AuditFiles = disk.In(life)
	})
	h := racktest.NewHistory()
	for _, rec := range r.Records() {
		h.Apply(t, &rec)
	}
	seen := racktest.Look(t, r.Client)
	h.Compare(t, seen)
	s.judge(t, seen)
	report, err := r.Appliance.Records().Check(t.Context(), func(int, int) {})
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("check: %v, %v", report.Problems, err)
	}
	r.Stop()
	key, err := tlog.ParseVerifier(r.AuditKey())
	if err == nil {
		_, err = audit.Verify(disk.In(life), audit.VerifyOptions{Keys: []tlog.Verifier{key}})
	}
	if err != nil {
		t.Errorf("verify: %v", err)
	}
	return whole
}

// story is a sequence of changes, up to the first that is not answered.
type story struct {
	c       *client.Client
	arn     string
	enabled bool
	aliases map[string]string
	lost    bool // the next change was asked for and not answered
}

// tell makes the changes, and reports whether all were answered.
func (s *story) tell(t *testing.T) bool {
	s.aliases = map[string]string{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, next := range []func(context.Context) error{
		s.create, s.alias("alias/one"), s.disable, s.alias("alias/two"), s.enable, s.drop("alias/one"), s.create, s.alias("alias/one"),
	} {
		if next(ctx) != nil {
			s.lost = true
			return false
		}
	}
	return true
}

func (s *story) create(ctx context.Context) error {
	out, err := client.Do(ctx, s.c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	if err == nil {
		s.arn, s.enabled = out.KeyMetadata.Arn, true
	}
	return err
}

func (s *story) disable(ctx context.Context) error {
	_, err := client.Do(ctx, s.c, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: api.ParseKeyRef([]byte(s.arn))})
	if err == nil {
		s.enabled = false
	}
	return err
}

func (s *story) enable(ctx context.Context) error {
	_, err := client.Do(ctx, s.c, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: api.ParseKeyRef([]byte(s.arn))})
	if err == nil {
		s.enabled = true
	}
	return err
}

func (s *story) alias(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.Do(ctx, s.c, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: name, TargetKeyId: api.ParseKeyRef([]byte(s.arn))})
		if err == nil {
			s.aliases[name] = s.arn
		}
		return err
	}
}

func (s *story) drop(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.Do(ctx, s.c, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: name})
		if err == nil {
			delete(s.aliases, name)
		}
		return err
	}
}

// judge looks for what was acknowledged. At most one thing is otherwise, where one change was not answered.
func (s *story) judge(t *testing.T, seen *racktest.Sight) {
	t.Helper()
	differs := 0
	if enabled, there := seen.Enabled[s.arn]; s.arn != "" && (!there || enabled != s.enabled) {
		differs++
		if !there {
			t.Errorf("%s was acknowledged and is not there", s.arn)
		}
	}
	if !maps.Equal(seen.Aliases, s.aliases) {
		differs++
	}
	if differs > 1 || differs > 0 && !s.lost {
		t.Errorf("to be seen are %v and %v, acknowledged were %s, enabled: %t, and %v", seen.Enabled, seen.Aliases, s.arn, s.enabled, s.aliases)
	}
}
