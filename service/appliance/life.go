package appliance

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// What the operator is told who comes at the wrong time.
var (
	errLocked = &api.Error{Kind: api.KindInvalidState, Reason: "locked",
		Message: "the appliance is locked: unlock it first"}
	errRotating = &api.Error{Kind: api.KindInvalidState, Reason: "rotating",
		Message: "a rotation of the domain key is under way: wait until the status says that it is over"}
	errEnding = &api.Error{Kind: api.KindUnavailable, Reason: "locking", RetryAfter: time.Second,
		Message: "the appliance is being locked: try again when its new process answers"}
)

// Unlock opens the domain key with the token, and returns when the appliance
// serves. An unlocked appliance stays as it is.
func (s *Service) Unlock(c *access.Call, _ *applianceapi.UnlockRequest, out *applianceapi.UnlockResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if err := c.Need(work.Token); err != nil {
		return err
	}
	ctx, cancel := patient(c)
	defer cancel()
	if err := s.alone(ctx); err != nil {
		return err
	}
	defer s.done()
	if !s.move() {
		return errEnding
	}
	if err := s.Config.Unlock(ctx); err != nil {
		s.rest()
		return told("unlock", err)
	}
	if !s.rest() { // a Lock came meanwhile, and was answered
		return errEnding
	}
	out.State = s.State()
	return nil
}

// Lock asks for the end of the process that holds the keys. An appliance that
// is locked already stays as it is, unless it is about to be unlocked.
func (s *Service) Lock(c *access.Call, _ *applianceapi.LockRequest, _ *applianceapi.LockResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.State() == applianceapi.Locked && !s.moving {
		return nil
	}
	s.ending = true
	s.Config.Lock()
	return nil
}

// RotateDomainKey makes a new root and a new domain key, and returns when no
// copy of an old slot opens any more. It is refused while records are still being
// wrapped anew for the rotation before.
func (s *Service) RotateDomainKey(c *access.Call, _ *applianceapi.RotateDomainKeyRequest, out *applianceapi.RotateDomainKeyResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if err := c.Need(work.Token); err != nil {
		return err
	}
	select {
	case s.life <- struct{}{}:
		defer s.done()
	default: // another one is at it
		return errRotating
	}
	switch {
	case s.isEnding():
		return errEnding
	case s.State() == applianceapi.Locked:
		return errLocked
	}
	ctx, cancel := patient(c)
	defer cancel()
	if err := s.Rotate(ctx); err != nil {
		return told("rotate the domain key", err)
	}
	out.Version = int64(s.Records().KeyVersion)
	return nil
}

// ShredDeletedKeys closes what older copies of the data folder hold of destroyed keys, and
// returns when that is done: a rotation of the domain key to its end. Without such keys it
// does nothing.
func (s *Service) ShredDeletedKeys(c *access.Call, _ *applianceapi.ShredDeletedKeysRequest, out *applianceapi.ShredDeletedKeysResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if err := c.Need(work.Token); err != nil {
		return err
	}
	ctx, cancel := patient(c)
	defer cancel()
	n, err := s.Shred(ctx)
	if err != nil {
		return told("shred destroyed keys", err)
	}
	out.Keys, out.Version = int64(n), int64(s.Records().KeyVersion)
	return nil
}

// ListSlots says which slots there are.
func (s *Service) ListSlots(c *access.Call, _ *applianceapi.ListSlotsRequest, out *applianceapi.ListSlotsResponse) (err error) {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if err := c.Need(work.Token); err != nil {
		return err
	}
	if *out, err = s.Slots(c.Context()); err != nil {
		return told("list the slots", err)
	}
	return nil
}

// patient returns a context for what reads the whole store: longer than other
// work may take, and whether or not its caller waits.
func patient(c *access.Call) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(c.Context()), api.LifeDeadline)
}

// alone waits until nobody else unlocks or rotates.
func (s *Service) alone(ctx context.Context) error {
	select {
	case s.life <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Service) done() { <-s.life }

// move notes that an Unlock begins, unless the process is to end.
func (s *Service) move() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moving = !s.ending
	return s.moving
}

// rest notes that it is over, and reports whether the process may stay.
func (s *Service) rest() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moving = false
	return !s.ending
}

func (s *Service) isEnding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

// told returns what the operator is told of a failure: its cause, which others
// would only find in the log. what is "unlock" and its like.
func told(what string, err error) error {
	e := &api.Error{Kind: api.KindInternal, Message: fmt.Sprintf("%s: %v", what, err), Err: err}
	switch {
	case errors.Is(err, domain.ErrRotating):
		return errRotating
	case errors.Is(err, keystore.ErrLocked):
		return errLocked
	case errors.Is(err, domain.ErrNoSlot):
		e.Kind, e.Reason = api.KindKeyUnavailable, "slot"
	case errors.Is(err, hsm.ErrClosed), errors.Is(err, hsm.ErrBlob):
		e.Kind, e.Reason = api.KindKeyUnavailable, "token"
	case errors.Is(err, keystore.ErrDamaged):
		e.Reason = "store-damaged"
	case errors.Is(err, keystore.ErrFull):
		e.Reason = "store"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG): // of another file: the token's
		e.Reason = "space"
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, syscall.EADDRNOTAVAIL):
		e.Reason = "address"
	}
	return e
}
