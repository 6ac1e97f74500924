package rack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keyrack/keyrack/keystore"
)

// rotationPause is how long a rotation rests that does not go on, as on a full disk or with a token that is away.
const rotationPause = time.Minute

// rotation is the part of a rotation of the domain key that runs beside the work, until nothing is left of it.
type rotation struct {
	mu    sync.Mutex
	runs  bool          // guarded by mu
	stuck error         // why it does not go on, nil while it does; guarded by mu
	again chan struct{} // has room for one: try now
}

// begin reports whether the caller is to run it. One that runs is woken.
func (r *rotation) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs {
		select {
		case r.again <- struct{}{}:
		default:
		}
		return false
	}
	r.runs = true
	return true
}

// end notes how a try went, and reports whether that was the last: there is nothing left to do, also not of a
// rotation that began meanwhile.
func (r *rotation) end(err error, left func() bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stuck, r.runs = err, err != nil || left()
	return !r.runs
}

// warning says why the rotation does not go on, and what to do; "" while it does.
func (r *rotation) warning() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stuck == nil:
		return ""
	case errors.Is(r.stuck, keystore.ErrDamaged):
		return fmt.Sprintf("the rotation of the domain key is stuck: %v: keyrack check names all such rows; everything else is served and wrapped anew, "+
			"but the appliance will not unlock again until they are put right: keep a copy of its folder before it is stopped", r.stuck)
	}
	return fmt.Sprintf("the rotation of the domain key is stuck: %v: it is tried again every %v, and at once by keyrack domain rotate", r.stuck, rotationPause)
}

// endRotation has [domain.Keyring.Continue] do its work in the background, until it succeeds. One that rests tries
// again at once. The caller holds life.
func (a *Appliance) endRotation(o *opened) {
	if !o.rotation.begin() {
		return
	}
	a.background(&a.undo, func(ctx context.Context) {
		for {
			err := a.keyring.Continue(ctx, o.records)
			if ctx.Err() != nil || o.rotation.end(err, a.keyring.Rotating) {
				return
			}
			if err == nil {
				continue
			}
			a.cfg.Logger.LogAttrs(ctx, slog.LevelError, "the rotation of the domain key does not go on", slog.Any("error", err), slog.Duration("again", rotationPause))
			if !o.rotation.rest(ctx) {
				return
			}
		}
	})
}

// rest waits until it is time for another try, and reports whether there may be one.
func (r *rotation) rest(ctx context.Context) bool {
	pause := time.NewTimer(rotationPause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-r.again:
	case <-ctx.Done():
		return false
	}
	return true
}

// Rotate gives the appliance a new root and a new domain key. When it returns nil, no copy of
// an old slot opens any more; [domain.Keyring.Continue] then does the rest in the background, and
// also what a rotation has left that counts and went wrong behind that.
func (a *Appliance) Rotate(ctx context.Context) error {
	o := a.open.Load()
	if o == nil {
		return keystore.ErrLocked
	}
	err := a.keyring.Rotate(ctx, o.records)
	a.life.Lock()
	defer a.life.Unlock()
	if a.keyring.Rotating() && !a.closing {
		a.endRotation(o)
	}
	return err
}
