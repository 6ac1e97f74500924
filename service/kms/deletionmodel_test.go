package kms_test

import (
	"context"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
	"pgregory.net/rapid"
)

// TestDeletionUnderLoad: while many connections use a key and another one, its deletion is scheduled, cancelled,
// scheduled again and carried out. Each change acts on the next request of every connection, and the other key does
// not notice.
func TestDeletionUnderLoad(t *testing.T) {
	t.Parallel()
	r := startTimed(t)
	arn, other := r.CreateKey(), r.CreateKey()
	use := func(key string) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			_, err := client.Do(ctx, c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(key), Plaintext: []byte("x")})
			return err
		}
	}
	r.Load(t, r.Config, 4, use(other))
	l := r.Load(t, r.Config, 4, use(arn))
	l.Change("schedule", func() error { _, err := r.schedule(arn, 7); return err }, api.KindInvalidState)
	l.Change("cancel", func() error { return r.cancel(arn) }, api.KindDisabled)
	l.Change("enable", func() error {
		_, err := client.Do(t.Context(), r.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(arn)})
		return err
	}, api.KindNone)
	l.Change("schedule again", func() error { _, err := r.schedule(arn, 7); return err }, api.KindInvalidState)
	l.Change("destroy", func() error {
		r.advance(7 * day)
		r.warned(arn)
		r.advance(day)
		r.until("the end", func() bool { return r.state(arn) == 0 })
		return nil
	}, api.KindNotFound)
	wantSound(t, r.Rack)
}

// doomable is a key beside what should become of it.
type doomable struct {
	arn    string
	state  kmsapi.KeyState
	date   time.Time
	warned time.Time // zero = not yet
}

// lives is what TestDeletionBehavesLikeItsModel plays.
type lives struct {
	r    *timed
	keys []*doomable
}

// TestDeletionBehavesLikeItsModel plays random schedules, cancellations and times against a few dates.
func TestDeletionBehavesLikeItsModel(t *testing.T) {
	t.Parallel()
	r := startTimed(t)
	r.advance(time.Hour)
	rapid.Check(t, func(rt *rapid.T) {
		l := &lives{r: r}
		rt.Repeat(map[string]func(*rapid.T){"create": l.create, "schedule": l.schedule, "cancel": l.cancel, "wait": l.wait})
	})
	wantSound(t, r.Rack)
}

func (l *lives) create(rt *rapid.T) {
	if len(l.keys) == 2 {
		rt.Skip("there are enough")
	}
	l.keys = append(l.keys, &doomable{arn: l.r.CreateKey(), state: kmsapi.StateEnabled})
}

// any is one of the keys that there are or were.
func (l *lives) any(rt *rapid.T) *doomable {
	if len(l.keys) == 0 {
		rt.Skip("there is none")
	}
	return rapid.SampledFrom(l.keys).Draw(rt, "key")
}

func (l *lives) schedule(rt *rapid.T) {
	k, days := l.any(rt), rapid.Int64Range(7, 30).Draw(rt, "days")
	_, err := l.r.schedule(k.arn, days)
	want := api.KindNone
	switch k.state {
	case 0:
		want = api.KindNotFound
	case kmsapi.StatePendingDeletion:
		want = api.KindInvalidState
	default:
		k.state, k.date, k.warned = kmsapi.StatePendingDeletion, l.r.clock.Now().Add(time.Duration(days)*day), time.Time{}
	}
	if api.KindOf(err) != want {
		rt.Fatalf("schedule in state %d: %v, want %v", k.state, err, want)
	}
}

func (l *lives) cancel(rt *rapid.T) {
	k := l.any(rt)
	err := l.r.cancel(k.arn)
	want := api.KindInvalidState
	switch k.state {
	case 0:
		want = api.KindNotFound
	case kmsapi.StatePendingDeletion:
		want = api.KindNone
		k.state = kmsapi.StateDisabled
	}
	if api.KindOf(err) != want {
		rt.Fatalf("cancel: %v, want %v", err, want)
	}
}

// wait lets time pass, at once, and the runner do what it should.
func (l *lives) wait(rt *rapid.T) {
	l.r.advance(time.Duration(rapid.Int64Range(1, 12*24).Draw(rt, "hours")) * time.Hour)
	now := l.r.clock.Now()
	for _, k := range l.keys {
		switch {
		case k.state != kmsapi.StatePendingDeletion:
		case k.warned.IsZero() && !now.Before(k.date.Add(-day)):
			k.warned = now
		case !k.warned.IsZero() && !now.Before(k.date) && !now.Before(k.warned.Add(day)):
			k.state = 0
		}
	}
	l.r.settled()
	l.look(rt)
}

// look compares.
func (l *lives) look(rt *rapid.T) {
	for _, k := range l.keys {
		if got := l.r.state(k.arn); got != k.state {
			rt.Fatalf("%s is in state %d at %v, want %d: %+v", k.arn, got, l.r.clock.Now(), k.state, k)
		}
	}
}
