package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/tlog"
)

// ErrForked is wrapped by a [LogError]: the audit log is not the one that was seen
// before. It was cut or rewritten, or an older copy of the appliance is back.
var ErrForked = errors.New("the appliance's audit log contradicts what it has signed before")

// ErrUnsigned is wrapped by a [LogError]: a checkpoint of the audit log is not
// signed by the pinned key, or is of another log.
var ErrUnsigned = errors.New("the appliance's audit log is not signed by the pinned key")

// LogError says that the appliance's audit log cannot be the one whose key is
// pinned and whose checkpoints were seen before. It ends the client: no later call
// is made, whatever the appliance shows next. Kept and Got are C2SP signed notes;
// under ErrForked both are signed by the pinned key, which makes them evidence.
type LogError struct {
	Err  error  // wraps ErrForked or ErrUnsigned
	Kept string // what the log has to extend; "" if nothing was kept
	Got  string // what the appliance showed
	File string // where Kept is kept, if that is a [NoteFile]
}

func (e *LogError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *LogError) Unwrap() error { return e.Err }

// Checkpoints is where a program keeps the newest checkpoint from one run to the
// next, so that a log is found out that was rewritten while it did not run. A note
// is opaque text of at most 128 KiB. A client calls one method at a time.
type Checkpoints interface {
	// Load returns the note stored last, or nil if there is none yet.
	Load() ([]byte, error)
	// Store replaces the note. It may take its time: no call waits for it.
	Store(note []byte) error
}

// watch is what a client knows of the audit log.
type watch struct {
	key   tlog.Verifier
	store Checkpoints // nil = in memory only

	mu     sync.Mutex
	kept   signed        // guarded by mu; what the log has to extend; no note before the first
	stored string        // guarded by mu; the note that store has
	due    []signed      // guarded by mu; greetings' checkpoints, to be compared with kept
	busy   bool          // guarded by mu; a goroutine compares
	err    error         // guarded by mu; why the last comparison or Store did not succeed
	moved  chan struct{} // guarded by mu; closed when busy or err change
}

// signed is a checkpoint that the pinned key has signed.
type signed struct {
	tlog.Checkpoint
	note string
}

// mostDue bounds how many greetings wait to be compared. Further ones are passed
// over: all are compared with what the appliance shows then.
const mostDue = 8

// mostSteps bounds how often the log may grow while two checkpoints are compared.
const mostSteps = 16

// newWatch returns the watch that cfg asks for, or nil.
func newWatch(cfg Config) (*watch, error) {
	if cfg.AuditKey == "" {
		if cfg.Checkpoints != nil {
			return nil, errors.New("client: a place for checkpoints is configured, but no audit key to check them with")
		}
		return nil, nil
	}
	key, err := tlog.ParseVerifier(cfg.AuditKey)
	if err != nil {
		return nil, fmt.Errorf("client: audit key: %w", err)
	}
	w := &watch{key: key, store: cfg.Checkpoints, moved: make(chan struct{})}
	if w.store == nil {
		return w, nil
	}
	note, err := w.store.Load()
	if err == nil && len(note) > 0 {
		w.kept, err = w.open(string(note))
		w.stored = w.kept.note
	}
	err = w.located(err)
	if err != nil {
		return nil, fmt.Errorf("client: the kept checkpoint: %w", err)
	}
	return w, nil
}

// open checks a note's signature and that the log is the key's.
func (w *watch) open(note string) (signed, error) {
	c, err := tlog.Open([]byte(note), w.key)
	if err == nil && c.Origin != w.key.Name() {
		err = fmt.Errorf("it is of the log %q", c.Origin)
	}
	if err != nil {
		return signed{}, &LogError{Err: fmt.Errorf("%w: %w", ErrUnsigned, err), Kept: w.newest().note, Got: note}
	}
	return signed{c, note}, nil
}

func (w *watch) newest() signed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept
}

// fork says that two checkpoints, both signed, are not of one log.
func fork(kept, got signed, what string) error {
	return &LogError{Err: fmt.Errorf("%w: %s", ErrForked, what), Kept: kept.note, Got: got.note}
}

// Checkpoint returns the newest checkpoint that the client has checked, a C2SP
// signed note, or "" before the first or without an audit key. err says why the
// latest one could not be compared with it or stored, or that they contradict each
// other (a *[LogError]); nil while all is well.
func (c *Client) Checkpoint() (note string, err error) {
	if c.watch == nil {
		return "", nil
	}
	c.watch.mu.Lock()
	defer c.watch.mu.Unlock()
	return c.watch.kept.note, c.watch.err
}

// heard checks the signature of a greeting's checkpoint before any request follows
// it, and has it compared in the background. An error is a *LogError.
func (c *Client) heard(note string) error {
	w := c.watch
	if w == nil {
		return nil
	}
	if note == "" { // as before a log's first one
		if kept := w.newest(); kept.note != "" {
			return c.distrust(fork(kept, signed{}, "it shows no checkpoint any more"))
		}
		return nil
	}
	s, err := w.open(note)
	if err != nil {
		return c.distrust(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.due) < mostDue {
		w.due = append(w.due, s)
	}
	if !w.busy {
		w.busy = true
		go c.compareAll()
	}
	return nil
}

// located adds to a LogError where the kept note is.
func (w *watch) located(err error) error {
	file, isFile := w.store.(NoteFile)
	if e, ok := errors.AsType[*LogError](err); ok && isFile {
		e.File = string(file)
	}
	return err
}

// CheckLog waits until the log has been compared with what was kept, as far as the greetings so
// far tell of it, and the newest checkpoint is stored. A program that ends after a call or two
// calls it before it uses what they answered. The error is that of [Client.Checkpoint], or ctx's.
func (c *Client) CheckLog(ctx context.Context) error {
	w := c.watch
	if w == nil {
		return nil
	}
	for {
		w.mu.Lock()
		err, busy, moved := w.err, w.busy, w.moved
		w.mu.Unlock()
		if err != nil || !busy {
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// move wakes who waits for the comparison, with mu held.
func (w *watch) move() {
	close(w.moved)
	w.moved = make(chan struct{})
}

// distrust ends the client because of err and returns it.
func (c *Client) distrust(err error) error {
	err = c.watch.located(err)
	c.watch.fail(err)
	c.shut(err)
	return err
}

func (w *watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.move()
}

// rest says that nothing is compared any more.
func (w *watch) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	w.move()
}

// next returns what is to be compared; ok is false if that is nothing, or if
// nobody is connected: then the next greeting starts anew.
func (w *watch) next(connected bool) (kept, next signed, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !connected || len(w.due) == 0 {
		w.busy = false
		w.move()
		return signed{}, signed{}, false
	}
	return w.kept, w.due[0], true
}

// compareAll compares what is due. While the appliance does not answer, it tries
// again with pauses of up to a minute.
func (c *Client) compareAll() {
	w := c.watch
	for failures := 0; ; {
		kept, next, ok := w.next(failures == 0 || c.connected())
		if !ok {
			return
		}
		newest, err := c.join(c.life, kept, next)
		if contradiction, found := errors.AsType[*LogError](err); found {
			c.distrust(contradiction)
			return
		}
		if err == nil {
			failures = 0
			w.keep(newest)
			continue
		}
		if c.life.Err() == nil {
			w.fail(fmt.Errorf("compare the audit log with what was kept: %w", err))
			sleep(c.life, jitter(min(time.Second<<min(failures, 6), time.Minute)))
			failures++
		}
		if c.life.Err() != nil { // closed, which is no fault: what is due is compared by who comes next
			w.rest()
			return
		}
	}
}

// keep takes what the oldest checkpoint due has led to, and stores it if it is new.
func (w *watch) keep(newest signed) {
	w.mu.Lock()
	w.due = slices.Delete(w.due, 0, 1)
	if w.kept.note == "" || w.kept.Size != newest.Size {
		w.kept = newest
	}
	newest = w.kept
	store := w.store != nil && w.stored != newest.note
	w.mu.Unlock()
	var err error
	if store {
		err = w.store.Store([]byte(newest.note))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err = nil; err != nil {
		w.err = fmt.Errorf("store the newest checkpoint: %w", err)
	} else if store {
		w.stored = newest.note
	}
}

// join returns a checkpoint that extends both a and b, which proves that they are
// of one log: the older is followed to what the log is now, until they meet. An
// error that is a *LogError is proof of the contrary.
func (c *Client) join(ctx context.Context, a, b signed) (signed, error) {
	if a.note == "" {
		return b, nil
	}
	for range mostSteps {
		if a.Size > b.Size {
			a, b = b, a
		}
		switch {
		case a.Size == b.Size && a.Root != b.Root:
			return b, fork(a, b, fmt.Sprintf("there are two logs of %d records", a.Size))
		case a.Size == b.Size, a.Size == 0 && a.Root == tlog.EmptyRoot:
			return b, nil
		}
		next, err := c.extend(ctx, a)
		if err != nil {
			return b, err
		}
		if next.Size < b.Size {
			return b, fork(b, next, fmt.Sprintf("it has %d records where it had %d", next.Size, b.Size))
		}
		a = next
	}
	return b, errors.New("it grows faster than it can be followed")
}

// extend returns the log's newest checkpoint, proven to extend old (RFC 6962 §2.1.2).
func (c *Client) extend(ctx context.Context, old signed) (signed, error) {
	out, err := Do(ctx, c, applianceapi.GetAuditConsistency, &applianceapi.GetAuditConsistencyRequest{OldSize: int64(old.Size)})
	if api.KindOf(err) == api.KindValidation { // it says that it never was as long: let it sign that
		return c.shrunken(ctx, old, err)
	}
	if err != nil {
		return signed{}, err
	}
	next, err := c.watch.open(out.Checkpoint)
	if err != nil {
		return signed{}, err
	}
	proof := make([]tlog.Hash, len(out.Proof))
	for i, h := range out.Proof {
		if copy(proof[i][:], h) != len(h) || len(h) != len(proof[i]) {
			return signed{}, fork(old, next, "a hash of its proof has another length")
		}
	}
	if tlog.VerifyConsistency(old.Size, next.Size, old.Root, next.Root, proof) != nil {
		return signed{}, fork(old, next, fmt.Sprintf("the log of %d records does not extend that of %d", next.Size, old.Size))
	}
	return next, nil
}

// shrunken asks for the checkpoint of a log that refuses to prove that it extends
// old, because it is shorter.
func (c *Client) shrunken(ctx context.Context, old signed, refusal error) (signed, error) {
	out, err := Do(ctx, c, applianceapi.GetAuditCheckpoint, &applianceapi.GetAuditCheckpointRequest{})
	if err != nil {
		return signed{}, err
	}
	now, err := c.watch.open(out.Checkpoint)
	if err != nil {
		return signed{}, err
	}
	if now.Size < old.Size {
		return signed{}, fork(old, now, fmt.Sprintf("it has %d records where it had %d", now.Size, old.Size))
	}
	return signed{}, refusal
}
