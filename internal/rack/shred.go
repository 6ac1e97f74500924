package rack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/keystore"
)

// When destroyed keys are shredded: what copies of the data folder still hold of them is closed for ever by a rotation of the
// domain key, one for all that were destroyed meanwhile.
const (
	shredAfter = 12 * time.Hour   // from the first of them on: the other half of a day is for a token that is away
	shredLate  = 24 * time.Hour   // beyond which the operator is warned
	shredLook  = 10 * time.Minute // between two looks at whether it is time
)

// shredder shreds destroyed keys. Safe for concurrent use.
type shredder struct {
	a    *Appliance
	o    *opened
	turn sync.Mutex // held by who shreds

	mu    sync.Mutex
	n     int      // keys that are not shredded; guarded by mu, as what follows
	since api.Time // when the first was destroyed
	stuck error    // how the last try ended
}

// run shreds when it is time, until ctx ends.
func (s *shredder) run(ctx context.Context) {
	look := time.NewTicker(min(shredLook, max(s.a.cfg.DueEvery, time.Millisecond)))
	if s.a.cfg.DueEvery == 0 {
		look.Reset(shredLook)
	}
	defer look.Stop()
	for {
		if n, since := s.look(ctx); n > 0 && s.age(since) >= shredAfter {
			if _, err := s.shred(ctx); err != nil && ctx.Err() == nil {
				s.a.cfg.Logger.LogAttrs(ctx, slog.LevelError, "destroyed keys are not shredded yet", slog.Int("keys", n), slog.Any("error", err))
			}
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// look counts what is to be shredded.
func (s *shredder) look(ctx context.Context) (n int, since api.Time) {
	n, since, err := s.o.keys.Unshredded(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.stuck = err
		return 0, 0
	}
	s.n, s.since = n, since
	if n == 0 {
		s.stuck = nil
	}
	return n, since
}

// age is for how long they wait. A clock that is ahead makes it earlier, which harms nobody.
func (s *shredder) age(since api.Time) time.Duration {
	return s.a.cfg.Clock.Now().Sub(since.Time())
}

// shred shreds all keys that are destroyed by now, and returns how many they were: their buckets get
// new keys, and the domain key is rotated to its end, so that no older copy opens. Whatever fails is done again as a whole.
func (s *shredder) shred(ctx context.Context) (n int, err error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	n, err = s.tryShred(ctx)
	s.mu.Lock()
	s.stuck = err
	s.mu.Unlock()
	s.look(ctx)
	return n, err
}

func (s *shredder) tryShred(ctx context.Context) (int, error) {
	keys, err := s.o.keys.ToShred(ctx)
	if err != nil || keys.Len() == 0 {
		return 0, err
	}
	if err := s.o.records.Renew(ctx, keys.Materials); err != nil {
		return 0, fmt.Errorf("renew the buckets of their material: %w", err)
	}
	for range 2 { // behind one that is under way, which may have begun before
		if err = s.a.Rotate(ctx); err == nil || !errors.Is(err, domain.ErrRotating) {
			break
		}
		if err := s.rotated(ctx); err != nil {
			return 0, err
		}
	}
	if err != nil {
		return 0, fmt.Errorf("rotate the domain key: %w", err)
	}
	if err := s.rotated(ctx); err != nil {
		return 0, err
	}
	s.a.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "destroyed keys are shredded", slog.Int("keys", keys.Len()))
	return keys.Len(), s.o.keys.Shredded(ctx, keys, api.TimeOf(s.a.cfg.Clock.Now()))
}

// rotated waits until a rotation of the domain key has ended.
func (s *shredder) rotated(ctx context.Context) error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for s.a.keyring.Rotating() {
		if stuck := s.o.rotation.warning(); stuck != "" {
			return errors.New(stuck)
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// warning says since when shredding is outstanding; "" while it is not, or not for long.
func (s *shredder) warning() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 || s.stuck == nil && s.age(s.since) < shredLate {
		return ""
	}
	text := fmt.Sprintf("%d destroyed keys or imported materials are not shredded, the first since %s: older copies of the data folder may still hold them", s.n, s.since.Time().Format(time.RFC3339))
	if s.stuck != nil {
		text += fmt.Sprintf(": %v: it is tried again every %v, and at once by keyrack domain shred", s.stuck, shredLook)
	}
	return text
}

// startShredder has destroyed keys shredded, beside the work.
func (a *Appliance) startShredder(_ context.Context, o *opened) error {
	a.background(&a.undo, o.shredder.run)
	return nil
}

// Shred shreds at once the keys that are destroyed by now, and returns how many they were.
func (a *Appliance) Shred(ctx context.Context) (int, error) {
	o := a.open.Load()
	if o == nil {
		return 0, keystore.ErrLocked
	}
	return o.shredder.shred(ctx)
}
