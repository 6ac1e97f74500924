package iam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// follow keeps the directory what the store says until ctx ends or the store's
// changes cannot be followed any more. Then nobody is let in: it could be somebody
// who was removed.
func (s *Service) follow(ctx context.Context) {
	var err error
	for again := true; again; again = errors.Is(err, keystore.ErrCompacted) || s.waited(ctx, err) { // too much has changed meanwhile: read all anew
		s.letNobodyIn()
		var from keystore.Revision
		if from, err = s.load(ctx); err == nil {
			err = s.Store.Watch(ctx, from, func(_ keystore.Revision, changes []keystore.Change) error { return s.changed(ctx, changes) })
		}
	}
	s.letNobodyIn()
	if ctx.Err() == nil && !errors.Is(err, keystore.ErrClosed) {
		s.Logger.LogAttrs(ctx, slog.LevelError, "no client is let in any more: the store's principals cannot be followed", slog.Any("error", err))
	}
	s.ended <- err
}

// letNobodyIn empties the directory until the index is as new as the store again.
func (s *Service) letNobodyIn() {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.Directory.Publish(nil)
	s.current = false
}

// waited waits and reports true where all is to be read again after a shortage of locked
// memory. At the start there is nobody to wait for: New says what is wrong.
func (s *Service) waited(ctx context.Context, err error) bool {
	select {
	case <-s.ready:
		return errors.Is(err, securemem.ErrFull) && wait(ctx)
	default:
		return false
	}
}

// wait waits for retryPause and reports whether ctx goes on.
func wait(ctx context.Context) bool {
	timer := time.NewTimer(retryPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// load reads all principals and returns the revision they are of. Nothing is
// published yet: what is read may be old by now.
func (s *Service) load(ctx context.Context) (from keystore.Revision, err error) {
	var all map[identity.KeyHash]*principal
	err = s.Store.View(ctx, func(r keystore.Reader) error {
		from = r.Revision()
		all, err = s.read(ctx, r)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the principals: %w", err)
	}
	s.index.replace(all)
	return from, nil
}

// read joins the rows of clients and principals. A Scan proves each row that it
// returns and not that none is missing; a row that is missing, or cannot be read,
// keeps its client out and nobody else in.
func (s *Service) read(ctx context.Context, r keystore.Reader) (map[identity.KeyHash]*principal, error) {
	clients := map[identity.KeyHash]keystore.Name{} // the row of the principal whose key it is
	err := s.scan(ctx, r, keystore.SpaceClient, func(e keystore.Entry) error {
		h, ok := keyOfRow(e.Name)
		account, name, err := parseClient(e.Value)
		if err == nil && ok {
			clients[h] = principalName(account, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	all := make(map[identity.KeyHash]*principal, len(clients))
	err = s.scan(ctx, r, keystore.SpacePrincipal, func(e keystore.Entry) error {
		p, err := parsePrincipal(e.Name, e.Value)
		if err != nil {
			return err
		}
		if clients[p.key] != e.Name {
			return fmt.Errorf("%w: no client's row agrees with it", errRow)
		}
		all[p.key] = p
		return nil
	})
	if out := len(clients) - len(all); out > 0 {
		s.unreadable(ctx, fmt.Errorf("%d clients have no principal's row that agrees with theirs", out))
	}
	return all, err
}

// scan calls f for each row of a space. What is wrong with rows is noted; the
// error is one of reading on.
func (s *Service) scan(ctx context.Context, r keystore.Reader, space keystore.Space, f func(keystore.Entry) error) error {
	for e, err := range r.Scan(keystore.Range(space)) {
		if err == nil {
			if err := f(e); err != nil {
				s.unreadable(ctx, fmt.Errorf("%s: %w", e.Name, err))
			}
			continue
		}
		if !errors.Is(err, keystore.ErrDamaged) {
			return err
		}
		s.unreadable(ctx, err) // the last one of the scan
	}
	return nil
}

// changed is told of every change before its Update returns. The call without
// changes says that from now on this is so.
func (s *Service) changed(ctx context.Context, changes []keystore.Change) error {
	if len(changes) == 0 {
		s.publish(true)
		s.caughtUp.Do(func() { close(s.ready) }) // not before: New returns then, and clients come
		return nil
	}
	keys := s.touched(changes)
	for _, h := range keys {
		if err := s.reload(ctx, h); err != nil {
			return err
		}
	}
	if len(keys) > 0 {
		s.publish(false)
	}
	return nil
}

// retryPause is how long the feed waits before it reads again what could not be read.
const retryPause = time.Second

// later reads a key again, until its rows can be read or are damaged: what a shortage of
// locked memory keeps out must not stay out when there is memory again. It ends with ctx.
func (s *Service) later(ctx context.Context, h identity.KeyHash) {
	if wait(ctx) && s.reload(ctx, h) == nil {
		s.publish(false)
	}
}

// touched returns the keys whose rows are among the changes.
func (s *Service) touched(changes []keystore.Change) (keys []identity.KeyHash) {
	for _, c := range changes {
		if h, ok := keyOfRow(c.Name); ok {
			keys = append(keys, h)
		} else if parts := c.Name.Components(); c.Name.Space() == keystore.SpacePrincipal && len(parts) == 2 {
			keys = append(keys, s.index.named(parts[1])...)
		}
	}
	slices.SortFunc(keys, func(a, b identity.KeyHash) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(keys)
}

// reload reads whose a key is now: at the change's revision or a later one, so
// never somebody's who was removed before. A View a key bounds what it holds open.
func (s *Service) reload(ctx context.Context, h identity.KeyHash) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	var p *principal
	err := s.Store.View(ctx, func(r keystore.Reader) (err error) {
		p, err = byKey(r, h)
		return err
	})
	if err != nil && (ctx.Err() != nil || errors.Is(err, keystore.ErrClosed)) {
		return err
	}
	switch {
	case errors.Is(err, keystore.ErrDamaged) || errors.Is(err, keystore.ErrNotFound) || errors.Is(err, errRow):
		s.unreadable(ctx, err)
	case err != nil:
		s.Logger.LogAttrs(ctx, slog.LevelWarn, "a client is kept out until its rows can be read", slog.Any("error", err))
		go s.later(ctx, h)
	}
	s.index.set(h, p)
	return nil
}

// publish lets in the principals of the index and the fixed ones, and nobody else, if the
// index is as new as the store. From current on it is.
func (s *Service) publish(current bool) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.current = s.current || current; !s.current {
		return
	}
	var people []*identity.Principal
	for _, p := range s.index.all() {
		people = append(people, p.identity(s.Realm))
	}
	s.Directory.Publish(append(people, s.Fixed...))
}

// unreadable notes what keeps clients out.
func (s *Service) unreadable(ctx context.Context, err error) {
	s.damaged.Store(true)
	s.Logger.LogAttrs(ctx, slog.LevelError, "clients are kept out: their rows cannot be read", slog.Any("error", err))
}
