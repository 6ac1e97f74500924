package kms_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
)

// slack is by how much the appliance may believe to be later than it is (internal/rack/FORMAT.md, "Time").
const slack = 8 * day

// life is an appliance that is killed and whose clock jumps, and an account beside what it should hold.
type life struct {
	*timed
	t       *testing.T
	d       *desk
	who     *identity.Principal
	keys    []*lifeKey
	true    time.Time     // what a good clock would say
	skew    time.Duration // by how much the machine's is ahead
	worst   time.Duration // by how much it was ahead in the life of the process
	lag     time.Duration // that went by without power since an operator last accepted the clock
	audit   *racktest.Platter
	below   keystore.Store
	power   *racktest.Power
	dead    *atomic.Bool
	crashes int
	steps   int
}

// lifeKey is a key as it should be.
type lifeKey struct {
	arn       string
	state     kmsapi.KeyState // 0 = destroyed
	deletion  time.Time       // of one that is to be destroyed
	materials []string        // ids in the order in which they became current
	onDemand  int
	every     int64 // days; 0 = not rotated by the appliance
	since     time.Time
	automatic int
	early     time.Duration // by which the appliance may have taken the time to be earlier when it reckoned
	blobs     []lifeBlob
	imported  *imports // of a key whose owner brings its materials
}

type lifeBlob struct {
	blob     api.Blob
	text     string
	material string
}

// TestLifeOfKeys plays random changes, uses, kills of the process, days without power and clocks that are set wrong,
// against a small model. What was acknowledged stays; what was not answered happened wholly or not at all; nothing is
// destroyed before its time whatever the clock says (each play is of an account of its own; -rapid.checks says how many); every ciphertext that was ever made decrypts as long as its key
// lives, by the material that made it; and in the end, with the clock set right, everything due is done.
func TestLifeOfKeys(t *testing.T) {
	t.Parallel()
	l := &life{t: t}
	l.fresh()
	rapid.Check(t, l.play)
	wantSound(t, l.Rack)
	t.Logf("%d steps, %d kills", l.steps, l.crashes)
}

// fresh makes another appliance, once the plays have come too far for one life.
func (l *life) fresh() {
	if l.timed != nil {
		wantSound(l.t, l.Rack)
		l.Stop()
	}
	l.audit, l.below, l.true = racktest.NewPlatter(), keystore.NewMemory(), time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	l.skew, l.worst, l.lag = 0, 0, 0
	l.timed = startTimed(l.t, func(cfg *rack.Config) {
		l.wire(cfg)
		cfg.AuditBytes = 64 << 10
	})
	l.d = newDesk(l.Rack)
}

// wire gives a process its store and its disk, which end with its power.
func (l *life) wire(cfg *rack.Config) {
	l.power, l.dead = racktest.NewPower(1<<30), new(atomic.Bool)
	cfg.Store, cfg.AuditFiles = cutStore{l.below, l.power, l.dead}, l.audit.In(l.power)
}

func (l *life) play(rt *rapid.T) {
	if l.true.Year() > 2070 {
		l.fresh()
	}
	l.who, l.keys = rootOf(newAccount()), nil
	steps := map[string]func(*rapid.T){
		"create": l.create, "switch": l.toggle, "schedule deletion": l.scheduleDeletion, "cancel deletion": l.cancelDeletion,
		"rotate": l.rotate, "rotate by itself": l.rotateByItself, "encrypt": l.encrypt, "decrypt": l.decrypt, "look": l.look,
		"time passes": l.passes, "clock is set": l.jump, "clock is accepted": l.acceptClock, "stop and start": l.restart, "kill": l.kill,
		"import": l.bring, "delete material": l.takeAway,
	}
	for name, step := range steps {
		steps[name] = func(rt *rapid.T) { l.steps++; step(rt) }
	}
	rt.Repeat(steps)
	l.end(rt)
}

// attempt is ask for a call that a kill may leave without an answer.
func attempt[In, Out any](l *life, op api.OpOf[In, Out], in *In) (*Out, error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer cancel()
	return tryAsk(ctx, l.d, l.who, op, in)
}

// pick draws a key that was made, whatever became of it.
func (l *life) pick(rt *rapid.T) *lifeKey {
	if len(l.keys) == 0 {
		rt.Skip("no key")
	}
	return rapid.SampledFrom(l.keys).Draw(rt, "key")
}

// want compares what a key's operation answered with what its state allows.
func (l *life) want(rt *rapid.T, what string, k *lifeKey, got error, want api.Kind) {
	if k.state == kmsapi.StatePendingDeletion && api.KindOf(got) == api.KindNotFound && !l.true.Add(slack).Before(k.deletion) {
		k.state = 0 // its time was over
	}
	if k.state == 0 {
		want = api.KindNotFound
	}
	if api.KindOf(got) != want {
		rt.Fatalf("%s of a key that is %s until %v, at %v: got %v, want %v", what, k.state, k.deletion, l.true, got, want)
	}
}

// refusal returns the error for a key in a state other than those.
func (k *lifeKey) refusal(states ...kmsapi.KeyState) api.Kind {
	switch {
	case slices.Contains(states, k.state):
		return api.KindNone
	case k.state == kmsapi.StateDisabled:
		return api.KindDisabled
	}
	return api.KindInvalidState
}

func (l *life) create(rt *rapid.T) {
	if len(l.keys) >= 4 {
		rt.Skip("enough keys")
	}
	in, k := &kmsapi.CreateKeyRequest{Origin: kmsapi.OriginAWSKMS}, &lifeKey{state: kmsapi.StateEnabled}
	if rapid.IntRange(0, 3).Draw(rt, "imported") == 3 {
		in.Origin, k.state, k.imported = kmsapi.OriginExternal, kmsapi.StatePendingImport, &imports{bytes: map[string][]byte{}}
	}
	out, err := attempt(l, kmsapi.CreateKey, in)
	if err != nil {
		rt.Fatal(err)
	}
	m := out.KeyMetadata
	if k.arn = m.Arn; m.CurrentKeyMaterialId != "" {
		k.materials = []string{m.CurrentKeyMaterialId}
	}
	if l.keys = append(l.keys, k); m.KeyState != k.state || (m.CurrentKeyMaterialId == "") != (k.imported != nil) {
		rt.Fatalf("a new key is %+v, want %s", m, k.state)
	}
}

func (l *life) toggle(rt *rapid.T) {
	k := l.pick(rt)
	to, err := kmsapi.StateEnabled, error(nil)
	if rapid.Bool().Draw(rt, "enable") {
		_, err = attempt(l, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(k.arn)})
	} else {
		to = kmsapi.StateDisabled
		_, err = attempt(l, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(k.arn)})
	}
	l.want(rt, "switching", k, err, k.refusal(kmsapi.StateEnabled, kmsapi.StateDisabled))
	if err == nil {
		k.state = to
	}
}

func (l *life) scheduleDeletion(rt *rapid.T) {
	k, days := l.pick(rt), rapid.Int64Range(7, 30).Draw(rt, "days")
	out, err := attempt(l, kmsapi.ScheduleKeyDeletion, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(k.arn), PendingWindowInDays: days})
	l.want(rt, "scheduling", k, err, k.refusal(kmsapi.StateEnabled, kmsapi.StateDisabled, kmsapi.StatePendingImport))
	if err == nil {
		l.doomed(rt, k, out.DeletionDate.Time(), days)
	}
}

// doomed notes the date of a deletion, which must be the window's by good time: earlier by no more than what the
// appliance has not seen go by, and later by no more than its clock is ahead.
func (l *life) doomed(rt *rapid.T, k *lifeKey, date time.Time, days int64) {
	if off := date.Sub(l.true) - time.Duration(days)*day; off > slack+l.worst || off < -slack-l.behind() {
		rt.Fatalf("%d days from %v are over at %v, says the appliance", days, l.true, date)
	}
	k.state, k.deletion = kmsapi.StatePendingDeletion, date
}

func (l *life) cancelDeletion(rt *rapid.T) { l.cancelDeletionOf(rt, l.pick(rt)) }

func (l *life) cancelDeletionOf(rt *rapid.T, k *lifeKey) {
	_, err := attempt(l, kmsapi.CancelKeyDeletion, &kmsapi.CancelKeyDeletionRequest{KeyId: ref(k.arn)})
	want := api.KindInvalidState
	if k.state == kmsapi.StatePendingDeletion {
		want = api.KindNone
	}
	l.want(rt, "cancelling", k, err, want)
	if err == nil {
		k.state = kmsapi.StateDisabled
		if k.imported != nil && (len(k.materials) == 0 || len(k.imported.gone) > 0) {
			k.state = kmsapi.StatePendingImport
		}
	}
}

func (l *life) rotate(rt *rapid.T) {
	k := l.pick(rt)
	l.materialsOf(rt, k)
	_, err := attempt(l, kmsapi.RotateKeyOnDemand, &kmsapi.RotateKeyOnDemandRequest{KeyId: ref(k.arn)})
	if api.KindOf(err) == api.KindConflict && k.every > 0 {
		return // the appliance is about to do it itself
	}
	want := k.refusal(kmsapi.StateEnabled)
	if want == api.KindNone && k.onDemand == api.MaxOnDemandRotations {
		want = api.KindLimitExceeded
	}
	if want == api.KindNone && k.imported != nil && k.imported.pending == "" {
		want = api.KindInvalidState
	}
	l.want(rt, "rotating", k, err, want)
	if err == nil {
		k.onDemand++
		if k.imported != nil {
			k.materials, k.imported.pending = append(k.materials, k.imported.pending), ""
		}
		l.materialsOf(rt, k)
	}
}

func (l *life) rotateByItself(rt *rapid.T) {
	k, days := l.pick(rt), rapid.SampledFrom([]int64{0, 90, 365, 2560}).Draw(rt, "days")
	var err error
	if days > 0 {
		_, err = attempt(l, kmsapi.EnableKeyRotation, &kmsapi.EnableKeyRotationRequest{KeyId: ref(k.arn), RotationPeriodInDays: days})
	} else {
		_, err = attempt(l, kmsapi.DisableKeyRotation, &kmsapi.DisableKeyRotationRequest{KeyId: ref(k.arn)})
	}
	want := k.refusal(kmsapi.StateEnabled)
	if k.imported != nil {
		want = api.KindUnsupportedOperation
	}
	l.want(rt, "scheduling rotations", k, err, want)
	if err == nil && k.every != days {
		l.materialsOf(rt, k)
		k.every, k.since, k.automatic, k.early = days, l.true, 0, l.behind()
	}
}

// materialsOf compares the materials that a key has with those it had: what is new came by the rotations
// that were asked for, or by the appliance's own when a period may be over.
func (l *life) materialsOf(rt *rapid.T, k *lifeKey) {
	if k.state == 0 {
		return
	}
	out, err := attempt(l, kmsapi.ListKeyRotations, &kmsapi.ListKeyRotationsRequest{KeyId: ref(k.arn), IncludeKeyMaterial: kmsapi.AllKeyMaterial, Limit: 1000})
	l.want(rt, "listing rotations", k, err, api.KindNone)
	if err != nil {
		return
	}
	if out.Rotations = l.comparePending(rt, k, out.Rotations); len(out.Rotations) == 0 && len(k.materials) == 0 {
		return
	}
	onDemand := 0
	for i, e := range out.Rotations {
		if i < len(k.materials) && e.KeyMaterialId != k.materials[i] || e.KeyMaterialState == kmsapi.MaterialCurrent != (i == len(out.Rotations)-1) {
			rt.Fatalf("material %d of %d is %+v, was %v", i, len(out.Rotations), e, k.materials)
		}
		if e.RotationType == kmsapi.RotationOnDemand {
			onDemand++
		}
		if i < len(k.materials) {
			continue
		}
		if e.RotationType == kmsapi.RotationAutomatic {
			l.rotatedByItself(rt, k)
		}
		k.materials = append(k.materials, e.KeyMaterialId)
	}
	if len(out.Rotations) != len(k.materials) || onDemand != k.onDemand {
		rt.Fatalf("%d materials, of them %d on demand; want %d and %d", len(out.Rotations), onDemand, len(k.materials), k.onDemand)
	}
}

// rotatedByItself is one rotation by the appliance: there is one a period, the first of which began when it was set.
func (l *life) rotatedByItself(rt *rapid.T, k *lifeKey) {
	k.automatic++
	if period := time.Duration(k.every) * day; k.every == 0 || l.true.Sub(k.since)+slack+k.early < time.Duration(k.automatic)*period {
		rt.Fatalf("the appliance has rotated %d times every %d days since %v, at %v", k.automatic, k.every, k.since, l.true)
	}
	k.early += l.behind()
}

// behind is by how much the appliance may take the time to be earlier than it is.
func (l *life) behind() time.Duration { return l.lag + max(0, -l.skew) }

func (l *life) encrypt(rt *rapid.T) {
	k := l.pick(rt)
	text := fmt.Sprint(len(k.blobs))
	out, err := attempt(l, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(k.arn), Plaintext: api.Secret(text)})
	l.want(rt, "encrypting", k, err, k.refusal(kmsapi.StateEnabled))
	if err != nil {
		return
	}
	l.materialsOf(rt, k)
	b := lifeBlob{blob: slices.Clone(out.CiphertextBlob), text: text}
	b.material = l.opens(rt, k, b)
	k.blobs = append(k.blobs, b)
	if last := len(k.materials); !slices.Contains(k.materials[max(0, last-2):], b.material) { // the appliance may have rotated in between
		rt.Fatalf("encrypted under %s, and the key has %v", b.material, k.materials)
	}
}

// opens decrypts, and returns the id of the material that did it.
func (l *life) opens(rt *rapid.T, k *lifeKey, b lifeBlob) string {
	out, err := attempt(l, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: b.blob})
	want := k.refusal(kmsapi.StateEnabled)
	if k.state == kmsapi.StatePendingDeletion && api.KindOf(err) == api.KindAccessDenied && !l.true.Add(slack).Before(k.deletion) {
		k.state = 0
	}
	if k.state == 0 {
		want = api.KindAccessDenied // a ciphertext whose key is unknown
	}
	if api.KindOf(err) != want {
		rt.Fatalf("decrypting with a key that is %s: got %v, want %v", k.state, err, want)
	}
	if err != nil {
		return ""
	}
	if string(out.Plaintext) != b.text || b.material != "" && out.KeyMaterialId != b.material {
		rt.Fatalf("%s decrypts to %q by %s, want %q by %s", k.arn, out.Plaintext, out.KeyMaterialId, b.text, b.material)
	}
	return out.KeyMaterialId
}

func (l *life) decrypt(rt *rapid.T) {
	k := l.pick(rt)
	if len(k.blobs) == 0 {
		rt.Skip("no ciphertext")
	}
	l.opens(rt, k, rapid.SampledFrom(k.blobs).Draw(rt, "blob"))
}

// look compares all that is to be seen of a key.
func (l *life) look(rt *rapid.T) {
	k := l.pick(rt)
	out, err := attempt(l, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(k.arn)})
	l.want(rt, "describing", k, err, api.KindNone)
	if err != nil {
		return
	}
	m := out.KeyMetadata
	if m.KeyState != k.state || (m.DeletionDate != 0) != (k.state == kmsapi.StatePendingDeletion) || m.DeletionDate != 0 && !m.DeletionDate.Time().Equal(k.deletion) {
		rt.Fatalf("the key is %s until %v, want %s until %v", m.KeyState, m.DeletionDate.Time(), k.state, k.deletion)
	}
	l.materialsOf(rt, k)
	status, err := attempt(l, kmsapi.GetKeyRotationStatus, &kmsapi.GetKeyRotationStatusRequest{KeyId: ref(k.arn)})
	l.want(rt, "asking for rotations of", k, err, api.KindNone)
	want := k.every
	if k.state == kmsapi.StatePendingDeletion {
		want = 0
	}
	if err == nil && (status.RotationPeriodInDays != want || status.KeyRotationEnabled != (want > 0)) {
		rt.Fatalf("rotations: %+v, want every %d days", status, want)
	}
}
