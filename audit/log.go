package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/internal/tlog"
)

// Log is an open audit log. One process has it open at a time; all methods are safe for
// concurrent use. Make one with [Open].
type Log struct {
	cfg    Config
	origin [sha256.Size]byte
	key    tlog.Verifier
	unlock func() error // gives the folder's lock back

	durable atomic.Uint64             // what Durable returns: published after the sync
	trouble atomic.Pointer[condition] // what Err returns; nil is well
	left    atomic.Int64              // room in the current segment

	// mu guards the records that wait. It is held for the copy of a trail, never across a file
	// operation, and taken last.
	mu       sync.Mutex
	unblock  sync.Cond // pending was taken, or the log stalled or ended
	pending  queue
	accepted Position // reached once all of pending is durable
	closed   bool     // Close has begun: nothing more is accepted
	stalled  bool     // accepted records have no place in the files: nothing more is accepted until they have
	ended    bool     // dead or closed: who waits for room gives up

	// commitMu is held for a whole commit and guards the fields of committer. Taken before mu,
	// pub.mu and ahead.mu.
	commitMu sync.Mutex
	committer

	telling sync.Mutex // held while OnChange is told; whoever holds it takes none but what State takes

	pub   published
	ahead ahead
	index index
	proof proofs
	notes checkpoints

	wake chan struct{} // there are records for the committer
	news chan struct{} // there are durable records without a checkpoint
	stop context.CancelFunc
	done sync.WaitGroup // the log's goroutines
}

// condition is why something cannot be done.
type condition struct {
	err  error
	dead bool
}

// Open opens the log in cfg.Files, or begins one there. It finds the end, drops what an
// unfinished write left behind it, and begins a new segment. A new log signs its first
// checkpoint, of no records, at once. Open refuses a log that is damaged, shorter than its own
// checkpoint or without one: errors wrap [Damage], [ErrCheckpoint], [ErrInUse], [ErrFull] or
// those of Files, Signer and StartKey.
func Open(cfg Config) (*Log, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	key, err := tlog.NewP256Verifier(cfg.Origin, cfg.Signer.Public)
	if err != nil {
		return nil, fmt.Errorf("audit: checkpoint key: %w", err)
	}
	l := &Log{
		cfg: cfg, key: key, origin: sha256.Sum256([]byte(cfg.Origin)), unlock: func() error { return nil },
		wake: make(chan struct{}, 1), news: make(chan struct{}, 1), stop: func() {},
	}
	l.unblock.L = &l.mu
	l.ahead.init()
	l.proof.turn = make(chan struct{}, 1)
	if lock, ok := cfg.Files.(locker); ok {
		if l.unlock, err = lock.Lock(); err != nil {
			return nil, err
		}
	}
	if err := l.start(); err != nil {
		return nil, errors.Join(err, l.release(), l.unlock())
	}
	return l, nil
}

// start recovers what is there, begins a segment and lets the goroutines go.
func (l *Log) start() error {
	uncut, err := l.recover()
	if err != nil {
		return err
	}
	if err := l.Rekey(); err != nil {
		return err
	}
	if l.notes.newest() == nil { // before the first record, so that records without a checkpoint are found out
		if err := l.checkpoint(context.Background()); err != nil {
			return err
		}
	}
	if l.cfg.inline {
		l.trim(context.Background(), uncut)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	l.done.Go(func() { l.trim(ctx, uncut) })
	l.done.Go(func() { l.runCommitter(ctx) })
	l.done.Go(func() { l.runAhead(ctx) })
	l.done.Go(func() { l.runCheckpoints(ctx) })
	signal(l.news)
	return nil
}

// Append takes the trail's records into the log, in order and with none of another trail
// between them, and resets the trail. They are durable once the position returned is reached.
// It blocks only while more than 8 MiB wait for the disk. With alone set, and nothing else
// under way, the records are durable on return: who has nothing more to do meanwhile saves two
// changes of goroutine.
//
// On an error no record was taken and the trail is as it was: [ErrTooLarge], [ErrFull],
// [ErrClosed] or one that wraps [ErrDead].
func (l *Log) Append(t *Trail, alone bool) (Position, error) {
	if t.most > l.mostRecord() {
		return 0, ErrTooLarge
	}
	l.mu.Lock()
	for len(l.pending.frames) > maxPending && l.refusal() == nil {
		l.unblock.Wait()
	}
	if err := l.refusal(); err != nil {
		l.mu.Unlock()
		return 0, err
	}
	first := l.pending.empty() && t.Len() > 0
	l.pending.add(t)
	l.accepted += Position(t.Len())
	p := l.accepted
	l.mu.Unlock()
	t.Reset()

	// Whoever puts the first record into an empty queue sees to its commit; the others ride
	// along.
	if first && !((alone || l.cfg.inline) && l.commitInline()) {
		signal(l.wake)
	}
	return p, nil
}

// refusal returns why nothing may be appended now. The caller holds mu.
func (l *Log) refusal() error {
	switch {
	case l.ended && !l.closed:
		return l.Err()
	case l.closed:
		return ErrClosed
	case l.stalled:
		return ErrFull
	}
	return nil
}

// mostRecord returns the longest record that fits into an empty segment and a batch.
func (l *Log) mostRecord() int {
	return min(MaxRecord, capacity(l.cfg.SegmentBytes-headerBytes)-frameBytes)
}

// commitInline commits on the caller's goroutine, unless a commit is under way or the newest
// batch shows that there are others: then it pays to wait for them. If it does not succeed, who
// waits for the records learns why.
func (l *Log) commitInline() bool {
	if !l.commitMu.TryLock() {
		return false
	}
	defer l.commitMu.Unlock()
	if l.last > 1 && !l.cfg.inline {
		return false
	}
	l.commit()
	return true
}

// Durable returns how many records are durable. It is one atomic load.
func (l *Log) Durable() Position { return Position(l.durable.Load()) }

// Synced returns how many records a power cut leaves: those that are durable, with durability
// [Written] those that the newest checkpoint covers.
func (l *Log) Synced() Position {
	if l.cfg.Durability == Synced {
		return l.Durable()
	}
	last, _ := l.notes.state()
	return last.Size
}

// Wait returns nil once p is durable. It returns the context's error, or one that wraps
// [ErrDead] or is [ErrClosed] if p cannot be reached any more in this process: the next start may
// or may not find the records, and nothing may be answered that rests on them. It does not
// allocate where p is durable already.
func (l *Log) Wait(ctx context.Context, p Position) error {
	for l.Durable() < p {
		next, err := l.pub.wait(p)
		if next == nil {
			return err
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Err returns nil while records can be kept, and otherwise an error that wraps [ErrDead] or
// [ErrFull]: nothing should then be begun that leaves a record. The record of the refusal
// itself is still accepted while the reserve lasts. It is one atomic load.
func (l *Log) Err() error {
	if c := l.trouble.Load(); c != nil {
		return c.err
	}
	return nil
}

// die ends the log for this process. Nothing becomes durable after it.
func (l *Log) die(cause error) error {
	dead := &condition{err: fmt.Errorf("%w: %w", ErrDead, cause), dead: true}
	for {
		now := l.trouble.Load()
		if now != nil && now.dead {
			return now.err
		}
		if l.trouble.CompareAndSwap(now, dead) {
			break
		}
	}
	l.end(dead.err)
	l.changed()
	return dead.err
}

// end lets go everyone who waits.
func (l *Log) end(err error) {
	l.pub.end(err)
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.unblock.Broadcast()
	l.ahead.end(err)
}

// changed tells OnChange, to which a goroutine of the log after the other comes.
func (l *Log) changed() {
	if l.cfg.OnChange != nil {
		l.telling.Lock()
		defer l.telling.Unlock()
		l.cfg.OnChange(l.State())
	}
}

// State returns how the log is now.
func (l *Log) State() State {
	s := State{Durability: l.cfg.Durability, Recovered: l.notes.recovered, Segments: l.index.len()}
	l.mu.Lock()
	s.Size = l.accepted
	l.mu.Unlock()
	s.Durable, s.Keyed = l.Durable(), l.keyed.Load()
	free, err := l.ahead.state()
	s.FreeBytes, s.SpaceErr = free+l.left.Load(), err
	s.LastCheckpoint, s.CheckpointErr = l.notes.state()
	if c := l.trouble.Load(); c != nil && c.dead {
		s.Dead = c.err
	} else {
		s.Full = c != nil
	}
	return s
}

// Checkpoint returns the newest checkpoint, a signed note that is on disk. The caller must not
// change it.
func (l *Log) Checkpoint() []byte { return l.notes.newest() }

// Close makes durable what was accepted, signs a last checkpoint and closes the files. The
// context bounds the wait for the signing key; the log is closed whatever the error. A second
// call returns [ErrClosed].
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	again := l.closed
	l.closed = true
	l.mu.Unlock()
	if again {
		return ErrClosed
	}
	l.unblock.Broadcast()
	err := l.lastCommit()
	l.stop()
	l.ahead.end(ErrClosed)
	l.done.Wait()
	if err == nil {
		err = l.checkpoint(ctx)
	}
	if err == nil {
		l.active.cut()
	}
	l.end(ErrClosed)
	return errors.Join(err, l.release(), l.unlock())
}

// lastCommit commits what was accepted before Close.
func (l *Log) lastCommit() error {
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	if err := l.Err(); errors.Is(err, ErrDead) {
		return err
	}
	return l.commit()
}

// release closes the files and frees the key. Nothing else runs any more.
func (l *Log) release() error {
	l.chain.free()
	return errors.Join(l.active.release(), l.ahead.release())
}

// signal leaves a token in a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
