package kms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// Bounds of the runner.
const (
	dueAtOnce = 64          // rows that one snapshot is read for
	dueBeside = 8           // pieces of work that are done beside each other: they share the store's syncs
	dueEvery  = time.Minute // the longest that it sleeps: work that failed is tried again, and time is looked at again
	dueLull   = time.Second // the least between two passes that rows ask for, however close together they come due
	dueLogged = 10          // failures of one pass that are logged one by one
	dueMended = 1000        // broken rows that one pass mends
	dueFailed = 10000       // pieces of work that are left alone until they are tried again
)

// due is what the runner has to be told, and tells.
type due struct {
	woken   chan struct{} // has room for one: somebody wants a pass now
	written chan struct{} // has room for one: a row was written that is due before the runner looks again
	looks   atomic.Int64  // when that is, by accepted time, µs

	left map[dueItem]error // of the runner's pass, guarded by its mu: work that has failed, and waits for its next try

	mu     sync.Mutex
	passes int    // that are over; guarded by mu, as what follows
	failed int    // pieces of work that the last pass has left because of an error
	cause  error  // of the last of them
	doomed doomed // keys whose end is warned of
	mended int    // rows that had to be made again
}

func (d *due) init() {
	d.woken, d.written, d.left = make(chan struct{}, 1), make(chan struct{}, 1), map[dueItem]error{}
	d.looks.Store(math.MaxInt64)
}

// wake lets the runner look at its rows.
func (d *due) wake() { signal(d.woken) }

// put hears of a row that was written.
func (d *due) put(n keystore.Name) {
	if w, ok := parseDue(n); !ok || int64(w.at) < d.looks.Load() {
		signal(d.written)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// note says how a pass has gone.
func (d *due) note(p *pass) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passes++
	d.failed, d.cause = p.failed, p.cause
}

// warnings says which keys will be destroyed, and what of the last pass was left.
func (d *due) warnings() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all = d.doomed.warnings()
	if d.cause != nil {
		all = append(all, fmt.Sprintf("work that was due is not done, %d keys: %v: it is tried again every %v", d.failed, d.cause, dueEvery))
	}
	if d.mended > 0 {
		all = append(all, fmt.Sprintf("%d rows of due work were missing or broken, and were made again: the store's file was changed from outside; run keyrack check", d.mended))
	}
	return all
}

// RunDue does what is due, by accepted time and behind g's audit log, until ctx ends. It
// wakes for the next row, when rows are written that are due before that, and at least once in every, 0 being
// a minute; it looks whether rows are missing, too. Nothing of it is in memory only: after a cut the rows that were not done are there.
func (s *Service) RunDue(ctx context.Context, g *access.Gate, every time.Duration) {
	if every == 0 {
		every = dueEvery
	}
	var keeping sync.WaitGroup
	keeping.Go(func() { s.keepDue(ctx) })
	defer keeping.Wait()
	var full, looked time.Time // when all was tried, and when doomed keys were looked for
	for asked := false; ctx.Err() == nil; {
		p := &pass{s: s, gate: g, every: every}
		if asked || time.Since(full) >= every {
			full = time.Now()
			clear(s.due.left)
		}
		wait := p.run(ctx)
		if p.done > 0 || time.Since(looked) >= every {
			looked = time.Now()
			p.fail(ctx, dueItem{}, s.lookForDoomed(ctx))
		}
		p.tell(ctx)
		s.due.note(p)
		asked = s.pause(ctx, min(every, dueLull), min(every, wait))
	}
}

// pause waits until somebody asks for a pass, which it reports; for least at the least, and then until a row was written,
// for most at the most.
func (s *Service) pause(ctx context.Context, least, most time.Duration) (asked bool) {
	begun := time.Now()
	select {
	case <-time.After(least):
	case <-s.due.woken:
		return true
	case <-ctx.Done():
		return false
	}
	select {
	case <-time.After(max(0, most-time.Since(begun))):
	case <-s.due.woken:
		return true
	case <-s.due.written:
	case <-ctx.Done():
	}
	return false
}

// lookForDoomed notes which keys' end is warned of.
func (s *Service) lookForDoomed(ctx context.Context) error {
	keys, err := s.doomedBy(ctx, s.time)
	s.due.mu.Lock()
	defer s.due.mu.Unlock()
	s.due.doomed = keys
	return err
}

// pass is one look at all that is due.
type pass struct {
	s     *Service
	gate  *access.Gate
	every time.Duration

	mu     sync.Mutex
	done   int   // pieces of work that were tried; guarded by mu, as what follows
	failed int   // of them, of what else was tried, and of what waits for its next try
	told   int   // failures that were logged
	cause  error // of the last failure
}

// run does all that is due now, and returns how long it is until the next piece. One that fails holds up none behind it.
func (p *pass) run(ctx context.Context) (next time.Duration) {
	from, mended := keystore.Name{}, 0
	for more := true; more && ctx.Err() == nil; {
		at, ok := p.s.time.Accepted()
		if !ok {
			return dueEvery // status says so
		}
		now := api.TimeOf(at)
		p.s.due.looks.Store(int64(api.TimeOf(at.Add(p.every))))
		page, err := p.s.duePage(ctx, from, now)
		p.do(ctx, page.items, now)
		if page.broken.Valid() && mended < dueMended {
			mended++
			err = p.s.mendDue(ctx, page.broken, err)
		}
		from, more, next = page.next, page.more, page.until
		if p.fail(ctx, dueItem{}, err) {
			from = behindRow(page.broken)
			more = from.Valid()
		}
	}
	if next == 0 || next > p.every {
		return p.every
	}
	if at, ok := p.s.time.Accepted(); ok {
		p.s.due.looks.Store(int64(api.TimeOf(at.Add(next))))
	}
	return next
}

// behindRow returns the least name behind that of a row which cannot be read, or no name.
func behindRow(n keystore.Name) keystore.Name {
	if !n.Valid() {
		return n
	}
	return keystore.MakeName(n.Space(), append(n.Components(), "")...)
}

// do does pieces of work, some beside each other.
func (p *pass) do(ctx context.Context, items []dueItem, now api.Time) {
	var all sync.WaitGroup
	defer all.Wait()
	turns := make(chan struct{}, dueBeside)
	for _, d := range items {
		if p.waits(d) {
			continue
		}
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			err := p.s.doDue(ctx, &dueWork{dueItem: d, now: now, time: p.s.time, gate: p.gate, s: p.s})
			p.mu.Lock()
			p.done++
			p.mu.Unlock()
			p.fail(ctx, d, err)
		})
	}
}

// waits reports whether a piece of work has failed and is not to be tried yet.
func (p *pass) waits(d dueItem) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.s.due.left[d]
	if err != nil {
		p.failed, p.cause = p.failed+1, err
	}
	return err != nil
}

// fail notes an error of a piece of work, or of none, and reports whether it is one.
func (p *pass) fail(ctx context.Context, d dueItem, err error) bool {
	if err == nil || ctx.Err() != nil {
		return err != nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed, p.cause = p.failed+1, err
	if d.kind != 0 && len(p.s.due.left) < dueFailed {
		p.s.due.left[d] = err
	}
	if p.told++; p.told <= dueLogged {
		p.s.logger.LogAttrs(ctx, slog.LevelError, "work that was due is not done", slog.String("key", d.key.String()), slog.Any("error", err), slog.Duration("again", dueEvery))
	}
	return true
}

// tell logs how many failures there were besides those that are logged.
func (p *pass) tell(ctx context.Context) {
	if more := p.told - dueLogged; more > 0 {
		p.s.logger.LogAttrs(ctx, slog.LevelError, "more work that was due is not done", slog.Int("keys", more), slog.Duration("again", dueEvery))
	}
}

// doDue does a piece of work. A panic costs this one.
func (s *Service) doDue(ctx context.Context, w *dueWork) (err error) {
	defer func() {
		if p := recover(); p != nil { // the value may hold anything
			err = fmt.Errorf("%s: panic of type %T", w.name(), p)
		}
	}()
	handle := dueHandlers[w.kind]
	if handle == nil {
		return fmt.Errorf("%s: %w: this program knows no work of kind %d", w.name(), keystore.ErrDamaged, w.kind)
	}
	return handle(s, ctx, w)
}

// duePage is what a snapshot shows of the work that is due.
type duePage struct {
	items  []dueItem
	next   keystore.Name // where to go on, if there may be more
	more   bool
	until  time.Duration // to the first that is not due yet; 0 if none was met
	broken keystore.Name // of a row that cannot be read, where the page ends
}

// duePage reads at most dueAtOnce pieces of work from a name on. Its error may be that of the row at which it ends.
func (s *Service) duePage(ctx context.Context, from keystore.Name, now api.Time) (p duePage, err error) {
	lo, hi := keystore.Range(keystore.SpaceDue)
	if from.Valid() {
		lo = from
	}
	err = s.store.View(ctx, func(r keystore.Reader) error {
		p = duePage{}
		for e, err := range r.Scan(lo, hi) {
			d, ok := parseDue(e.Name)
			if err == nil && !ok {
				err = fmt.Errorf("%s: %w: no work is called so", e.Name, keystore.ErrDamaged)
			}
			switch {
			case err != nil:
				if errors.Is(err, keystore.ErrDamaged) {
					p.broken, p.next, p.more = e.Name, e.Name, true
				}
				return err
			case d.at > now:
				p.until = d.at.Time().Sub(now.Time())
				return nil
			case len(p.items) == dueAtOnce:
				p.next, p.more = e.Name, true
				return nil
			}
			p.items = append(p.items, d)
		}
		return nil
	})
	return p, err
}
