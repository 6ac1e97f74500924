package kms_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

func rotateEvery(tb testing.TB, c *client.Client, key string, days int64) error {
	tb.Helper()
	_, err := client.Do(tb.Context(), c, kmsapi.EnableKeyRotation, &kmsapi.EnableKeyRotationRequest{KeyId: ref(key), RotationPeriodInDays: days})
	return err
}

func rotateNever(tb testing.TB, c *client.Client, key string) error {
	tb.Helper()
	_, err := client.Do(tb.Context(), c, kmsapi.DisableKeyRotation, &kmsapi.DisableKeyRotationRequest{KeyId: ref(key)})
	return err
}

func rotationStatus(tb testing.TB, c *client.Client, key string) (*kmsapi.GetKeyRotationStatusResponse, error) {
	tb.Helper()
	return client.Do(tb.Context(), c, kmsapi.GetKeyRotationStatus, &kmsapi.GetKeyRotationStatusRequest{KeyId: ref(key)})
}

// wantStatus checks whether and when a key is rotated: days 0 for never.
func wantStatus(tb testing.TB, r *racktest.Rack, key string, days int64, next time.Time) {
	tb.Helper()
	got, err := rotationStatus(tb, r.Client, key)
	if err != nil {
		tb.Fatal(err)
	}
	want := kmsapi.GetKeyRotationStatusResponse{KeyId: got.KeyId, KeyRotationEnabled: days > 0, RotationPeriodInDays: days}
	if days > 0 {
		want.NextRotationDate = api.TimeOf(next)
	}
	if *got != want {
		tb.Errorf("the status is %+v (next %s), want %+v (next %s)", *got, got.NextRotationDate.Time(), want, next)
	}
}

// calendar is an appliance whose time the test lets pass.
type calendar struct {
	*racktest.Rack
	tb   testing.TB
	clk  *clock.Clock
	pass func(time.Duration)
	set  func(time.Time)
}

func newCalendar(tb testing.TB, options ...func(*rack.Config)) *calendar {
	tb.Helper()
	c := &calendar{tb: tb}
	c.clk, c.pass, c.set = clock.NewTestWall(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	c.Rack = racktest.Start(tb, append(options, func(cfg *rack.Config) { cfg.Clock, cfg.DueEvery = c.clk, time.Millisecond })...)
	return c
}

// later lets time pass, and what is due be seen.
func (c *calendar) later(d time.Duration) {
	c.pass(d)
	c.KMS().WakeDue()
}

// rotatedTimes waits until a key was rotated automatically so often, and all have heard of it, and returns when it was the last time.
func (c *calendar) rotatedTimes(key string, want int) (last time.Time) {
	c.tb.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		all, _ := rotations(c.tb, c.Client, key, 0, 0)
		n := 0
		for _, e := range all {
			if e.RotationType == kmsapi.RotationAutomatic {
				n++
				last = e.RotationDate.Time()
			}
		}
		status, err := rotationStatus(c.tb, c.Client, key)
		if err != nil {
			c.tb.Fatal(err)
		}
		switch {
		case n == want && (n == 0 || status.NextRotationDate.Time().After(last)):
			return last
		case n > want:
			c.tb.Fatalf("%s was rotated %d times, want %d: %+v", key, n, want, all)
		case time.Now().After(deadline):
			c.tb.Fatalf("%s was not rotated %d times, but %d", key, want, n)
		}
	}
}

// settle returns when the runner has done what is due now: a key that is due beside is rotated.
func (c *calendar) settle() {
	c.tb.Helper()
	probe := c.CreateKey()
	kms.SetDue(c.tb, c.KMS(), keyID(c.tb, probe), 100, api.TimeOf(c.clk.Now()))
	c.KMS().WakeDue()
	c.rotatedTimes(probe, 1)
}

// TestAutomaticRotation: at its date, once a period, with a record of who did it.
func TestAutomaticRotation(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	arn := c.CreateKey()
	first := describe(t, c.Rack, arn).CurrentKeyMaterialId
	blob := encrypt(t, c.Rack, arn, []byte("x"))
	wantStatus(t, c.Rack, arn, 0, time.Time{})
	if err := rotateEvery(t, c.Client, arn, 0); err != nil {
		t.Fatal(err)
	}
	next := c.clk.Now().Add(365 * day)
	wantStatus(t, c.Rack, arn, 365, next)
	c.later(365*day - time.Second)
	c.settle()
	c.rotatedTimes(arn, 0)
	for times := 1; times <= 3; times++ {
		c.later(next.Sub(c.clk.Now()))
		last := c.rotatedTimes(arn, times)
		if last.Before(next) {
			t.Errorf("rotated at %s, which is before %s", last, next)
		}
		next = last.Add(365 * day)
		wantStatus(t, c.Rack, arn, 365, next)
	}
	wantDecrypts(t, c.Rack, blob, "x", first)
	wantRecordsOfRotations(t, c.Rack, arn)
	wantSound(t, c.Rack)
}

// wantRecordsOfRotations checks that the log has one event for each automatic rotation, from
// each material to the next.
func wantRecordsOfRotations(tb testing.TB, r *racktest.Rack, arn string) {
	tb.Helper()
	all, _ := rotations(tb, r.Client, arn, kmsapi.AllKeyMaterial, 0)
	var got []string
	for deadline := time.Now().Add(time.Minute); len(got) < len(all)-1 && time.Now().Before(deadline); { // the log has it a little later than the store
		got = nil
		for _, rec := range r.Records() {
			if rec.Op == kmsapi.RotateKey.Number && rec.Resource == arn {
				got = append(got, string(rec.Response))
			}
		}
	}
	if len(got) != len(all)-1 {
		tb.Fatalf("%d events, want %d: %q", len(got), len(all)-1, got)
	}
	for i, event := range got {
		for _, part := range []string{"AUTOMATIC", all[i].KeyMaterialId, all[i+1].KeyMaterialId} {
			if !strings.Contains(event, part) {
				tb.Errorf("event %d is %q, want %s in it", i, event, part)
			}
		}
	}
}

// TestTheScheduleOfAKey: another period begins anew, the same one changes nothing, and
// none ends it.
func TestTheScheduleOfAKey(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	arn := c.CreateKey()
	begun := c.clk.Now()
	for range 2 {
		if err := rotateEvery(t, c.Client, arn, 90); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c.Rack, arn, 90, begun.Add(90*day))
		c.later(time.Hour)
	}
	if err := rotateEvery(t, c.Client, arn, 2560); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c.Rack, arn, 2560, begun.Add(2*time.Hour+2560*day))
	c.later(100 * day)
	c.settle()
	c.rotatedTimes(arn, 0)
	mustRotate(t, c.Rack, arn)
	wantStatus(t, c.Rack, arn, 2560, begun.Add(2*time.Hour+2560*day)) // what is rotated on demand shifts nothing
	for range 2 {
		if err := rotateNever(t, c.Client, arn); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c.Rack, arn, 0, time.Time{})
	}
	c.later(3000 * day)
	c.settle()
	c.rotatedTimes(arn, 0)
	for _, days := range []int64{89, 2561, -1} {
		wantSays(t, rotateEvery(t, c.Client, arn, days), "ValidationException: 1 validation error detected: Value '"+fmt.Sprint(days)+"' at 'rotationPeriodInDays'")
	}
	wantSound(t, c.Rack)
}

// TestARotationThatIsOverdue waits for the key to be enabled, and comes then at once.
func TestARotationThatIsOverdue(t *testing.T) {
	t.Parallel()
	for name, deleted := range map[string]bool{"disabled": false, "to be deleted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCalendar(t)
			arn := c.CreateKey()
			if err := rotateEvery(t, c.Client, arn, 90); err != nil {
				t.Fatal(err)
			}
			next := c.clk.Now().Add(90 * day)
			c.later(80 * day)
			if deleted {
				_, err := client.Do(t.Context(), c.Client, kmsapi.ScheduleKeyDeletion, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(arn)})
				wantKind(t, err, api.KindNone)
				wantStatus(t, c.Rack, arn, 0, next)
			} else {
				_, err := client.Do(t.Context(), c.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(arn)})
				wantKind(t, err, api.KindNone)
				wantStatus(t, c.Rack, arn, 90, next)
			}
			c.later(20 * day)
			c.settle()
			c.rotatedTimes(arn, 0)
			wantSound(t, c.Rack)
			if deleted {
				_, err := client.Do(t.Context(), c.Client, kmsapi.CancelKeyDeletion, &kmsapi.CancelKeyDeletionRequest{KeyId: ref(arn)})
				wantKind(t, err, api.KindNone)
				wantStatus(t, c.Rack, arn, 90, next)
			}
			_, err := client.Do(t.Context(), c.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(arn)})
			wantKind(t, err, api.KindNone)
			wantStatus(t, c.Rack, arn, 90, c.rotatedTimes(arn, 1).Add(90*day))
			c.settle()
			c.rotatedTimes(arn, 1)
			wantSound(t, c.Rack)
		})
	}
}

// TestAKeyIsPausedWhileItIsDisabled, and takes its schedule up again if nothing was due.
func TestAKeyIsPausedWhileItIsDisabled(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	arn := c.CreateKey()
	if err := rotateEvery(t, c.Client, arn, 90); err != nil {
		t.Fatal(err)
	}
	next := c.clk.Now().Add(90 * day)
	for range 2 {
		if _, err := client.Do(t.Context(), c.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(arn)}); err != nil {
			t.Fatal(err)
		}
		c.later(30 * day)
		c.settle()
		if _, err := client.Do(t.Context(), c.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(arn)}); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c.Rack, arn, 90, next)
		c.settle()
		c.rotatedTimes(arn, 0)
	}
	c.later(30 * day)
	c.rotatedTimes(arn, 1)
}

// TestRotationsThatTheApplianceMissed while it was off: one is made up for, and only when the
// time is believed.
func TestRotationsThatTheApplianceMissed(t *testing.T) {
	t.Parallel()
	c := newCalendar(t, racktest.OnDisk)
	arn := c.CreateKey()
	if err := rotateEvery(t, c.Client, arn, 90); err != nil {
		t.Fatal(err)
	}
	c.Restart(func(*rack.Config) { c.set(c.clk.Now().Add(1000 * day)) })
	c.KMS().WakeDue()
	c.rotatedTimes(arn, 0)
	acceptClock(t, c.Rack)
	wantStatus(t, c.Rack, arn, 90, c.rotatedTimes(arn, 1).Add(90*day))
	c.settle()
	c.rotatedTimes(arn, 1)
	c.Restart(nil)
	c.settle()
	c.rotatedTimes(arn, 1)
	wantSound(t, c.Rack)
}

// acceptClock makes the time of the machine's clock the one that is believed.
func acceptClock(tb testing.TB, r *racktest.Rack) {
	tb.Helper()
	if _, err := client.Do(tb.Context(), r.Operator, applianceapi.AcceptClock, &applianceapi.AcceptClockRequest{}); err != nil {
		tb.Fatal(err)
	}
}

// TestAClockThatJumps rotates nothing, and a schedule that it spoiled is mended by asking for it again.
func TestAClockThatJumps(t *testing.T) {
	t.Parallel()
	c := newCalendar(t, racktest.OnDisk)
	arn, other := c.CreateKey(), c.CreateKey()
	if err := rotateEvery(t, c.Client, arn, 90); err != nil {
		t.Fatal(err)
	}
	begun := c.clk.Now()
	c.set(begun.Add(1500 * day))
	c.KMS().WakeDue()
	c.rotatedTimes(arn, 0)
	if err := rotateEvery(t, c.Client, other, 90); err != nil {
		t.Fatal(err)
	}
	c.Restart(func(cfg *rack.Config) {
		c.clk, c.pass, c.set = clock.NewTestWall(begun)
		cfg.Clock = c.clk
	})
	c.rotatedTimes(arn, 0)
	wantStatus(t, c.Rack, arn, 90, begun.Add(90*day))
	if err := rotateEvery(t, c.Client, other, 90); err != nil {
		t.Fatal(err)
	}
	status, err := rotationStatus(t, c.Client, other)
	if err != nil || status.NextRotationDate.Time().After(c.clk.Now().Add(90*day)) {
		t.Errorf("asked for again, the next rotation is at %s, %v", status.NextRotationDate.Time(), err)
	}
	wantSound(t, c.Rack)
}

// TestNoRotationOnDemandNearAnAutomaticOne: the two would make two materials where
// one was wanted.
func TestNoRotationOnDemandNearAnAutomaticOne(t *testing.T) {
	t.Parallel()
	clk, pass := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.Clock = clk })
	arn := r.CreateKey()
	if err := rotateEvery(t, r.Client, arn, 90); err != nil {
		t.Fatal(err)
	}
	pass(90*day - 20*time.Minute - time.Second)
	mustRotate(t, r, arn)
	pass(time.Second)
	wantSays(t, rotate(t, r.Client, arn), "ConflictException: "+arn+" is rotated automatically at 2026-04-01T00:00:00Z")
	if err := rotateNever(t, r.Client, arn); err != nil {
		t.Fatal(err)
	}
	mustRotate(t, r, arn)
}

// TestWorkThatAKeyDoesNotWaitFor is dropped: that of a key which was disabled meanwhile, and of another date.
func TestWorkThatAKeyDoesNotWaitFor(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	disabled, moved := c.CreateKey(), c.CreateKey()
	soon := c.clk.Now().Add(time.Hour)
	for _, arn := range []string{disabled, moved} {
		kms.SetDue(t, c.KMS(), keyID(t, arn), 90, api.TimeOf(soon))
	}
	kms.SetState(t, c.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	kms.SetDue(t, c.KMS(), keyID(t, moved), 90, api.TimeOf(soon.Add(90*day)))
	c.later(2 * time.Hour)
	c.settle()
	c.rotatedTimes(disabled, 0)
	c.rotatedTimes(moved, 0)
	wantSound(t, c.Rack)
}
