package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/appliance"
)

// do makes one call.
func do[In, Out any](tb testing.TB, c *client.Client, op api.OpOf[In, Out], in *In) (*Out, error) {
	tb.Helper()
	return client.Do(tb.Context(), c, op, in)
}

func status(tb testing.TB, c *client.Client) *applianceapi.GetStatusResponse {
	tb.Helper()
	s, err := do(tb, c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// TestLockedAppliance asks a locked appliance for everything, and unlocks it.
func TestLockedAppliance(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	arn := r.CreateKey()
	r.Restart(func(cfg *rack.Config) { cfg.Locked = true })
	if s := status(t, r.Operator); s.State != applianceapi.Locked || s.Address != "" || s.DomainKeyVersion != 0 || s.Rows != 0 {
		t.Errorf("a locked appliance says %+v", s)
	}
	for name, err := range map[string]error{
		"RotateDomainKey": second(do(t, r.Operator, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})),
		"CheckRecords":    second(do(t, r.Operator, applianceapi.CheckRecords, &applianceapi.CheckRecordsRequest{})),
		"AddPrincipal":    second(do(t, r.Operator, applianceapi.AddPrincipal, &applianceapi.AddPrincipalRequest{Name: "web", Account: "111122223333", KeyHash: "sha256:" + strings.Repeat("0", 64)})),
		"ListPrincipals":  second(do(t, r.Operator, applianceapi.ListPrincipals, &applianceapi.ListPrincipalsRequest{})),
		"RemovePrincipal": second(do(t, r.Operator, applianceapi.RemovePrincipal, &applianceapi.RemovePrincipalRequest{Name: "web"})),
	} {
		wantError(t, name, err, api.KindInvalidState, "locked")
	}
	_, err := do(t, r.Operator, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	wantError(t, "CreateKey", err, api.KindUnknownOperation, "")
	for name, err := range map[string]error{
		"ListAuditRecords":   second(do(t, r.Operator, applianceapi.ListAuditRecords, &applianceapi.ListAuditRecordsRequest{})),
		"SearchAuditRecords": second(do(t, r.Operator, applianceapi.SearchAuditRecords, &applianceapi.SearchAuditRecordsRequest{})),
		"GetAuditCheckpoint": second(do(t, r.Operator, applianceapi.GetAuditCheckpoint, &applianceapi.GetAuditCheckpointRequest{})),
		"Lock":               second(do(t, r.Operator, applianceapi.Lock, &applianceapi.LockRequest{})),
	} {
		wantError(t, name, err, api.KindNone, "")
	}
	select {
	case <-r.Ended():
		t.Error("locking a locked appliance ends it")
	default:
	}
	for range 2 { // an unlocked one stays as it is
		if out, err := do(t, r.Operator, applianceapi.Unlock, &applianceapi.UnlockRequest{}); err != nil || out.State != applianceapi.Unlocked {
			t.Fatalf("unlock: %+v, %v", out, err)
		}
	}
	if s := status(t, r.Operator); s.State != applianceapi.Unlocked || s.Address != r.Addr() || s.DomainKeyVersion != 1 || s.Rows == 0 || s.Buckets == 0 || s.Generation == 0 || s.Rotating {
		t.Errorf("an unlocked appliance says %+v", s)
	}
	_, err = do(t, r.Client, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(arn)), Plaintext: []byte("x")})
	wantError(t, "Encrypt", err, api.KindNone, "")
}

func second[T any](_ T, err error) error { return err }

// TestLockIsAnsweredBeforeTheEnd holds the disk up, so that the appliance is
// closed while the record of Lock is on its way: its answer and its record still
// come, and those of what was sent before it.
func TestLockIsAnsweredBeforeTheEnd(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	status(t, r.Operator) // connected
	ended := r.Ended()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ended
		r.Stop()
	}()
	r.Disk.Hold()
	locked := make(chan error, 1)
	go func() { locked <- second(do(t, r.Operator, applianceapi.Lock, &applianceapi.LockRequest{})) }()
	<-ended
	select {
	case err := <-locked:
		t.Errorf("answered before its record was on disk: %v", err)
	default:
	}
	r.Disk.Release()
	if err := <-locked; err != nil {
		t.Errorf("lock: %v", err)
	}
	<-stopped
	r.Restart(func(cfg *rack.Config) { cfg.Locked = true })
	if s := status(t, r.Operator); s.State != applianceapi.Locked {
		t.Errorf("it is %s", s.State)
	}
	n := 0
	for _, rec := range r.Records() {
		if rec.Op == applianceapi.Lock.Number && rec.Error == 0 {
			n++
		}
	}
	if n != 1 {
		t.Errorf("Lock has %d records", n)
	}
}

// TestRotate gives an appliance its second domain key, and looks at what it says.
func TestRotate(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	out, err := do(t, r.Operator, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
	if err != nil || out.Version != 2 {
		t.Fatalf("rotate: %+v, %v", out, err)
	}
	if s := status(t, r.Operator); s.DomainKeyVersion != 2 {
		t.Errorf("version %d", s.DomainKeyVersion)
	}
	_, err = do(t, r.Client, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
	wantError(t, "a client's rotation", err, api.KindAccessDenied, "")
}

// TestOneRotationAtATime asks for a second one while the first is at work.
func TestOneRotationAtATime(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}), make(chan struct{})
	d := newDesk(t, func(_ *desk, cfg *appliance.Config) {
		cfg.Rotate = func(context.Context) error { close(begun); <-finish; return nil }
	})
	first := make(chan error, 1)
	go func() {
		out, err := ask(t, d, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
		if err == nil && out.Version != 3 {
			err = fmt.Errorf("version %d", out.Version)
		}
		first <- err
	}()
	<-begun
	_, err := ask(t, d, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
	wantError(t, "the second", err, api.KindInvalidState, "rotating")
	close(finish)
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
}

// TestLockOvertakesUnlock: an Unlock that is at work when a Lock is answered must
// not say that the appliance serves, and none may begin after it.
func TestLockOvertakesUnlock(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}), make(chan struct{})
	d := newDesk(t, func(d *desk, cfg *appliance.Config) {
		d.open.Store(false)
		cfg.Unlock = func(context.Context) error { close(begun); <-finish; d.open.Store(true); return nil }
	})
	first := make(chan error, 1)
	go func() { first <- second(ask(t, d, applianceapi.Unlock, &applianceapi.UnlockRequest{})) }()
	<-begun
	if _, err := ask(t, d, applianceapi.Lock, &applianceapi.LockRequest{}); err != nil || d.locks.Load() != 1 {
		t.Errorf("lock: %v, asked %d times for the end", err, d.locks.Load())
	}
	close(finish)
	wantError(t, "the unlock before", <-first, api.KindUnavailable, "locking")
	_, err := ask(t, d, applianceapi.Unlock, &applianceapi.UnlockRequest{})
	wantError(t, "an unlock after", err, api.KindUnavailable, "locking")
	_, err = ask(t, d, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
	wantError(t, "a rotation after", err, api.KindUnavailable, "locking")
}

// TestLockOfTheLocked asks for no end, and a failed Unlock leaves nothing behind.
func TestLockOfTheLocked(t *testing.T) {
	t.Parallel()
	fail := errors.New("the token does not answer")
	d := newDesk(t, func(d *desk, cfg *appliance.Config) {
		d.open.Store(false)
		cfg.Unlock = func(context.Context) error { return fail }
	})
	_, err := ask(t, d, applianceapi.Unlock, &applianceapi.UnlockRequest{})
	if wantError(t, "unlock", err, api.KindInternal, ""); err == nil || !strings.Contains(err.Error(), fail.Error()) {
		t.Errorf("the operator is told %v", err)
	}
	if _, err := ask(t, d, applianceapi.Lock, &applianceapi.LockRequest{}); err != nil || d.locks.Load() != 0 {
		t.Errorf("lock: %v, asked %d times for the end", err, d.locks.Load())
	}
	_, err = ask(t, d, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
	wantError(t, "a rotation", err, api.KindInvalidState, "locked")
}

// TestWhatTheOperatorIsTold of failures.
func TestWhatTheOperatorIsTold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		kind   api.Kind
		reason string
	}{
		{domain.ErrNoSlot, api.KindKeyUnavailable, "slot"},
		{hsm.ErrClosed, api.KindKeyUnavailable, "token"},
		{hsm.ErrBlob, api.KindKeyUnavailable, "token"},
		{keystore.ErrDamaged, api.KindInternal, "store-damaged"},
		{keystore.ErrFull, api.KindInternal, "store"},
		{syscall.ENOSPC, api.KindInternal, "space"},
		{syscall.EADDRINUSE, api.KindInternal, "address"},
		{keystore.ErrLocked, api.KindInvalidState, "locked"},
		{domain.ErrLocked, api.KindInvalidState, "locked"},
		{domain.ErrRotating, api.KindInvalidState, "rotating"},
		{context.DeadlineExceeded, api.KindUnavailable, "timeout"},
		{errors.New("anything else"), api.KindInternal, ""},
	} {
		d := newDesk(t, func(_ *desk, cfg *appliance.Config) {
			cfg.Rotate = func(context.Context) error { return fmt.Errorf("row 7: %w", c.err) }
		})
		_, err := ask(t, d, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
		wantError(t, c.err.Error(), err, c.kind, c.reason)
	}
}
