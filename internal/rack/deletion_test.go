package rack_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

const day = 24 * time.Hour

var firstOfMay = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

// aged is an appliance whose clocks a test moves.
type aged struct {
	*racktest.Rack
	t       *testing.T
	advance func(time.Duration)
	set     func(time.Time)
}

// startAged starts an appliance on the first of May.
func startAged(t *testing.T, token string) *aged {
	t.Helper()
	a := &aged{t: t}
	a.Rack = racktest.StartOn(t, token, racktest.OnDisk, func(cfg *rack.Config) { a.newClock(cfg, firstOfMay) })
	return a
}

// newClock is what a machine has that was switched on: another monotonic clock.
func (a *aged) newClock(cfg *rack.Config, wall time.Time) {
	cfg.Clock, a.advance, a.set = clock.NewTestWall(wall)
	cfg.DueEvery = 2 * time.Millisecond
}

// reboot starts it again, at a time.
func (a *aged) reboot(wall time.Time) {
	a.t.Helper()
	a.Restart(func(cfg *rack.Config) { a.newClock(cfg, wall) })
}

func (a *aged) until(what string, ok func() bool) {
	a.t.Helper()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(time.Minute); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			a.t.Fatalf("%s: it does not come true; clock %+v, warnings %q", what, a.clock(), a.KMS().Warnings())
		}
	}
}

func (a *aged) state(arn string) kmsapi.KeyState {
	a.t.Helper()
	out, err := client.Do(a.t.Context(), a.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: api.ParseKeyRef([]byte(arn))})
	if api.KindOf(err) == api.KindNotFound {
		return 0
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return out.KeyMetadata.KeyState
}

// doom schedules a key's deletion in 7 days.
func (a *aged) doom(arn string) {
	a.t.Helper()
	if _, err := client.Do(a.t.Context(), a.Client, kmsapi.ScheduleKeyDeletion, &kmsapi.ScheduleKeyDeletionRequest{KeyId: api.ParseKeyRef([]byte(arn)), PendingWindowInDays: 7}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *aged) clock() *applianceapi.GetClockResponse {
	a.t.Helper()
	out, err := client.Do(a.t.Context(), a.Operator, applianceapi.GetClock, &applianceapi.GetClockRequest{})
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

func (a *aged) warns(text string) bool {
	a.t.Helper()
	out, err := client.Do(a.t.Context(), a.Operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil {
		a.t.Fatal(err)
	}
	return slices.ContainsFunc(out.Warnings, func(w string) bool { return strings.Contains(w, text) })
}

// TestAClockThatIsAhead by a month or by years destroys nothing, whatever is done with it: not while the appliance
// runs, nor by a start, nor by many, each a little further ahead. Put right, it serves, and destroys in time.
func TestAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	a := startAged(t, "soft")
	arn := a.CreateKey()
	a.doom(arn)
	for _, jump := range []time.Duration{30 * day, 12 * 365 * day} {
		a.set(firstOfMay.Add(jump))
		if c := a.clock(); c.Believed || !c.AcceptedTime.Time().Equal(firstOfMay) || c.Floor.Time().After(firstOfMay) {
			t.Errorf("%v ahead: %+v", jump, c)
		}
		if !a.warns("ahead of the time that is accepted") {
			t.Error("status does not say so")
		}
		a.reboot(firstOfMay.Add(jump))
		if c := a.clock(); c.Believed || !a.warns("ahead of the time that is accepted") {
			t.Errorf("started %v ahead: %+v", jump, c)
		}
		a.set(firstOfMay)
		if c := a.clock(); !c.Believed || a.warns("ahead") {
			t.Errorf("back again: %+v", c)
		}
	}
	ahead := firstOfMay
	for range 12 {
		ahead = ahead.Add(6 * day)
		a.reboot(ahead)
		a.clock()
	}
	if c := a.clock(); c.Believed || c.AcceptedTime.Time().After(firstOfMay.Add(7*day+time.Hour)) {
		t.Errorf("after a dozen starts, each 6 days further ahead: %+v", c)
	}
	if a.state(arn) != kmsapi.StatePendingDeletion {
		t.Fatal("the key is gone")
	}
	a.reboot(firstOfMay.Add(-30 * day))
	a.advance(time.Minute)
	if c := a.clock(); !c.Believed || c.AcceptedTime.Time().Before(firstOfMay) || !a.warns("behind the time that was reached") {
		t.Errorf("a month behind: %+v", c)
	}
	a.reboot(firstOfMay.Add(7 * day))
	a.until("the warning", func() bool { return a.warns("will be destroyed") })
	a.advance(day)
	a.until("the end", func() bool { return a.state(arn) == 0 })
}

// TestDueWorkSurvivesTheDark: a key whose date came while the appliance was off has its day of warning first. Where it was
// off for more than a week the operator says that the clock is right, and learns what that does.
func TestDueWorkSurvivesTheDark(t *testing.T) {
	t.Parallel()
	a := startAged(t, "soft")
	arn := a.CreateKey()
	a.doom(arn)
	now := firstOfMay.Add(20 * day)
	a.reboot(now)
	if a.clock().Believed {
		t.Error("20 days in the dark are believed")
	}
	preview, err := client.Do(t.Context(), a.Operator, applianceapi.AcceptClock, &applianceapi.AcceptClockRequest{Preview: true})
	if err != nil || len(preview.Due) != 1 || !strings.Contains(preview.Due[0], "is destroyed") || a.clock().Believed {
		t.Errorf("the preview is %+v, %v", preview, err)
	}
	if _, err := client.Do(t.Context(), a.Operator, applianceapi.AcceptClock, &applianceapi.AcceptClockRequest{}); err != nil {
		t.Fatal(err)
	}
	if c := a.clock(); !c.Believed || !c.AcceptedTime.Time().Equal(now) || !c.Floor.Time().Equal(now) {
		t.Errorf("accepted: %+v", c)
	}
	for range 3 { // hours of warning count while the appliance is on, across starts
		a.until("the warning", func() bool { return a.warns("will be destroyed") })
		a.advance(7 * time.Hour)
		now = now.Add(2 * day)
		a.reboot(now)
		if c := a.clock(); !c.Believed {
			t.Fatalf("not believed: %+v", c)
		}
	}
	a.until("the warning again", func() bool { return a.warns("will be destroyed") })
	if a.state(arn) != kmsapi.StatePendingDeletion {
		t.Fatal("destroyed after 21 hours of warning")
	}
	a.advance(4 * time.Hour)
	a.until("the end", func() bool { return a.state(arn) == 0 })
	wantAccepted(t, a)
}

// wantAccepted checks that the log says who has accepted the clock.
func wantAccepted(t *testing.T, a *aged) {
	t.Helper()
	n := 0
	for _, rec := range a.Records() {
		if rec.Op == applianceapi.AcceptClock.Number && rec.Error == 0 && len(rec.Request) == 0 {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d records of who accepted the clock", n)
	}
}

// TestShreddedKeysAreGone: a copy of the store from before a key's destruction opens with the token and its PIN as long as
// the key is not shredded, and then never more.
func TestShreddedKeysAreGone(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]func(*testing.T) string{
		"soft": func(*testing.T) string { return "soft" },
		"tpm2": func(t *testing.T) string { return "tpm2:path=" + swtpm.Start(t).Path() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shredOn(t, token(t))
		})
	}
}

func shredOn(t *testing.T, token string) {
	a := startAged(t, token)
	arn, kept := a.CreateKey(), a.CreateKey()
	store := filepath.Join(a.Dir, "store.db")
	a.Restart(func(*rack.Config) { copyFile(t, store, store+".before") })
	a.doom(arn)
	a.advance(7 * day)
	a.until("the warning", func() bool { return a.warns("will be destroyed") })
	a.advance(day)
	a.until("the end", func() bool { return a.state(arn) == 0 })
	a.Restart(func(*rack.Config) { copyFile(t, store, store+".after"); copyFile(t, store+".before", store) })
	if err := use(a.Client, arn, false); err != nil {
		t.Fatalf("the copy is no danger to begin with: %v", err)
	}
	a.Restart(func(*rack.Config) { copyFile(t, store+".after", store) })
	out, err := client.Do(t.Context(), a.Operator, applianceapi.ShredDeletedKeys, &applianceapi.ShredDeletedKeysRequest{})
	if err != nil || out.Keys != 1 || out.Version != 2 {
		t.Fatalf("shredded %+v, %v", out, err)
	}
	if out, err := client.Do(t.Context(), a.Operator, applianceapi.ShredDeletedKeys, &applianceapi.ShredDeletedKeysRequest{}); err != nil || out.Keys != 0 || out.Version != 2 {
		t.Errorf("shredded again %+v, %v", out, err)
	}
	err = a.TryRestart(func(*rack.Config) { copyFile(t, store, store+".now"); copyFile(t, store+".before", store) })
	if !errors.Is(err, domain.ErrNoSlot) {
		t.Errorf("the copy from before, with the token: %v", err)
	}
	wantNoFirstVersion(t, store+".now")
	a.Restart(func(*rack.Config) { copyFile(t, store+".now", store) })
	if err := use(a.Client, kept, false); err != nil || a.state(arn) != 0 {
		t.Errorf("the other key: %v", err)
	}
	report, err := a.Appliance.Records().Check(t.Context(), nil)
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("check: %v, %v", report.Problems, err)
	}
}

// TestShreddingComesByItself within a day, with one rotation for several keys.
func TestShreddingComesByItself(t *testing.T) {
	t.Parallel()
	a := startAged(t, "soft")
	arns := []string{a.CreateKey(), a.CreateKey(), a.CreateKey()}
	for _, arn := range arns {
		a.doom(arn)
	}
	a.advance(7 * day)
	a.until("the warning", func() bool { return a.warns("will be destroyed") })
	a.advance(day)
	for _, arn := range arns {
		a.until("the end", func() bool { return a.state(arn) == 0 })
	}
	n, _, err := a.KMS().Unshredded(t.Context())
	if err != nil || n != len(arns) {
		t.Errorf("%d keys are to be shredded, %v", n, err)
	}
	a.advance(13 * time.Hour)
	a.until("shredding", func() bool { n, _, err := a.KMS().Unshredded(t.Context()); return err == nil && n == 0 })
	status, err := client.Do(t.Context(), a.Operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil || status.DomainKeyVersion != 2 || status.Rotating {
		t.Errorf("status %+v, %v", status, err)
	}
	if a.warns("not shredded") {
		t.Error("status says that it is not done")
	}
}
