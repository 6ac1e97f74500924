package kms_test

import (
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/protocol/client"
)

// Time, stops and kills of the plays of life_test.go.

// passes lets hours or weeks go by with the appliance on.
func (l *life) passes(rt *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{time.Hour, 25 * time.Hour, 10 * day, 40 * day}).Draw(rt, "time")
	l.true = l.true.Add(d)
	l.advance(d)
	l.calm(rt)
}

// calm waits until what is due is done, where the appliance believes the machine's clock: else nothing is.
func (l *life) calm(rt *rapid.T) {
	out, err := client.Do(l.t.Context(), l.Operator, applianceapi.GetClock, &applianceapi.GetClockRequest{})
	if err != nil {
		rt.Fatal(err)
	}
	if out.Believed {
		l.settled()
	}
}

// jump sets the machine's clock wrong, or right again.
func (l *life) jump(rt *rapid.T) {
	l.skew = rapid.SampledFrom([]time.Duration{0, 30 * day, -30 * day, 12 * 365 * day, -12 * 365 * day}).Draw(rt, "ahead by")
	l.worst = max(l.worst, l.skew)
	l.set(l.true.Add(l.skew))
	l.calm(rt)
}

// acceptClock is what an operator does who has set the clock right.
func (l *life) acceptClock(rt *rapid.T) {
	l.skew, l.lag = 0, 0
	l.set(l.true)
	_, err := client.Do(l.t.Context(), l.Operator, applianceapi.AcceptClock, &applianceapi.AcceptClockRequest{})
	if err != nil {
		rt.Fatal(err)
	}
	l.calm(rt)
}

// restart stops the appliance in order, and starts it after days without power.
func (l *life) restart(rt *rapid.T) {
	off := rapid.SampledFrom([]time.Duration{0, 3 * day, 60 * day}).Draw(rt, "off")
	l.true, l.lag = l.true.Add(off), l.lag+off
	l.begin(func() {})
}

// begin starts the next process, whose clock is the machine's.
func (l *life) begin(between func()) {
	l.Restart(func(cfg *rack.Config) {
		between()
		l.wire(cfg)
		cfg.Clock, l.advance, l.set = clock.NewTestWall(l.true.Add(l.skew))
	})
	l.worst = max(0, l.skew)
	l.d = newDesk(l.Rack)
}

// kill ends the process at a random use of its disks, in or after a change of a key. What was not
// answered happened or did not; what is known to be behind it is read then.
func (l *life) kill(rt *rapid.T) {
	k := l.pick(rt)
	l.materialsOf(rt, k)
	change := rapid.SampledFrom([]string{"rotate", "schedule", "disable", "nothing"}).Draw(rt, "change")
	if k.imported != nil {
		change = "nothing"
	}
	l.power.Last(rapid.IntRange(1, 6).Draw(rt, "uses"))
	l.crashes++
	err := l.change(k, change)
	l.power.Off()
	worst := l.worst
	l.begin(l.audit.Lose)
	l.worst = max(worst, l.worst)
	if k.state == 0 {
		return
	}
	out, seen := attempt(l, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(k.arn)})
	l.want(rt, "describing after a kill", k, seen, api.KindNone)
	if seen == nil {
		l.survived(rt, k, change, err, &out.KeyMetadata)
	}
}

// change asks for one change. Its error may be that of a process that is being killed.
func (l *life) change(k *lifeKey, change string) (err error) {
	switch change {
	case "rotate":
		_, err = attempt(l, kmsapi.RotateKeyOnDemand, &kmsapi.RotateKeyOnDemandRequest{KeyId: ref(k.arn)})
	case "schedule":
		_, err = attempt(l, kmsapi.ScheduleKeyDeletion, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(k.arn), PendingWindowInDays: 7})
	case "disable":
		_, err = attempt(l, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(k.arn)})
	}
	return err
}

// survived takes over what a kill has left, if it is what was before or what the change should have made:
// the latter if the change was answered.
func (l *life) survived(rt *rapid.T, k *lifeKey, change string, err error, m *kmsapi.KeyMetadata) {
	switch usable := k.state == kmsapi.StateEnabled || k.state == kmsapi.StateDisabled; {
	case change == "schedule" && usable && m.KeyState == kmsapi.StatePendingDeletion:
		l.doomed(rt, k, m.DeletionDate.Time(), 7)
	case change == "disable" && usable && m.KeyState == kmsapi.StateDisabled:
		k.state = kmsapi.StateDisabled
	case m.KeyState != k.state || err == nil && usable && (change == "schedule" || change == "disable" && k.state == kmsapi.StateEnabled):
		rt.Fatalf("after %s, answered with %v, a key that was %s is %s", change, err, k.state, m.KeyState)
	}
	rotations := len(k.materials)
	if change == "rotate" && k.state == kmsapi.StateEnabled && !slices.Contains(k.materials, m.CurrentKeyMaterialId) {
		rotations++
		k.onDemand += l.isOnDemand(rt, k, m.CurrentKeyMaterialId)
	} else if change == "rotate" && err == nil && k.state == kmsapi.StateEnabled {
		rt.Fatalf("a rotation was answered, and the material is %s as before", m.CurrentKeyMaterialId)
	}
	if l.materialsOf(rt, k); len(k.materials) < rotations {
		rt.Fatalf("the key has %d materials, want %d", len(k.materials), rotations)
	}
}

// isOnDemand returns 1 if a material became current by a rotation on demand.
func (l *life) isOnDemand(rt *rapid.T, k *lifeKey, material string) int {
	out, err := attempt(l, kmsapi.ListKeyRotations, &kmsapi.ListKeyRotationsRequest{KeyId: ref(k.arn), Limit: 1000})
	if err != nil {
		rt.Fatal(err)
	}
	for _, e := range out.Rotations {
		if e.KeyMaterialId == material && e.RotationType == kmsapi.RotationOnDemand {
			return 1
		}
	}
	return 0
}

// end sets the clock right, lets every window pass, and looks at everything once more.
func (l *life) end(rt *rapid.T) {
	l.acceptClock(rt)
	for _, d := range []time.Duration{40 * day, 25 * time.Hour, 25 * time.Hour} {
		l.true = l.true.Add(d)
		l.advance(d)
		l.calm(rt)
	}
	for _, k := range l.keys {
		if k.state == kmsapi.StatePendingDeletion && k.deletion.After(l.true) { // the clock was ahead when it was scheduled
			l.cancelDeletionOf(rt, k)
		}
		if k.state == kmsapi.StatePendingDeletion || k.state == 0 {
			l.gone(rt, k)
			continue
		}
		for k.state == kmsapi.StatePendingImport {
			l.bringTo(rt, k)
		}
		if k.state == kmsapi.StateDisabled {
			if _, err := attempt(l, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(k.arn)}); err != nil {
				rt.Fatal(err)
			}
			k.state = kmsapi.StateEnabled
		}
		l.materialsOf(rt, k)
		for _, b := range k.blobs {
			l.opens(rt, k, b)
		}
	}
}

// gone waits for a key to be destroyed, hours after its warning at most.
func (l *life) gone(rt *rapid.T, k *lifeKey) {
	for range 60 {
		_, err := attempt(l, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(k.arn)})
		if api.KindOf(err) == api.KindNotFound {
			k.state = 0
			return
		}
		l.true = l.true.Add(time.Hour)
		l.advance(time.Hour)
		l.calm(rt)
	}
	rt.Fatalf("key %s, to be deleted at %v, is there at %v", k.arn, k.deletion, l.true)
}
