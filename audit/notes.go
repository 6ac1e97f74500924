package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/keyrack/keyrack/internal/tlog"
)

// Names of the checkpoint's files.
const (
	checkpointName = "checkpoint"
	checkpointNew  = "checkpoint.new" // while it is being replaced
)

// checkpoints is what a log knows of its checkpoints.
type checkpoints struct {
	mu        sync.Mutex // guards all below but recovered; never held across a file operation or the token
	note      []byte     // the newest that is stored; replaced, never changed
	last      CheckpointState
	err       error
	recovered Recovery // set before the log is open
}

func (c *checkpoints) newest() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.note
}

func (c *checkpoints) state() (CheckpointState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.err
}

// set takes a checkpoint that is stored.
func (c *checkpoints) set(note []byte, s CheckpointState) {
	c.mu.Lock()
	c.note, c.last = note, s
	c.mu.Unlock()
}

// fail takes an attempt's outcome, and reports whether attempts begin or cease to fail.
func (c *checkpoints) fail(err error) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed = (c.err == nil) != (err == nil)
	c.err = err
	return changed
}

// runCheckpoints signs checkpoints while there are new records, with the configured time
// between them.
func (l *Log) runCheckpoints(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-l.news:
		}
		err := l.checkpoint(ctx)
		if errors.Is(err, ErrDead) || ctx.Err() != nil {
			return
		}
		if err != nil {
			signal(l.news) // try again
		}
		if l.notes.fail(err) {
			l.changed()
		}
		timer.Reset(l.cfg.CheckpointEvery)
	}
}

// checkpoint signs what is durable now, if that is more than the last checkpoint covers, and
// stores the note. It covers synced records only: in either durability a power cut leaves at
// least these, and a log must never sign two checkpoints that contradict each other (C2SP
// tlog-checkpoint). One goroutine at a time may call it.
func (l *Log) checkpoint(ctx context.Context) error {
	t := l.pub.now()
	defer t.file.release()
	last, _ := l.notes.state()
	if t.size == last.Size && l.notes.newest() != nil { // a log's first checkpoint is of no records
		return nil
	}
	if l.cfg.Durability == Written && !l.cfg.skipSync {
		if err := t.file.file.Sync(); err != nil {
			return l.die(err)
		}
	}
	note, err := l.sign(ctx, t)
	if err != nil {
		return fmt.Errorf("audit: sign checkpoint: %w", err)
	}
	if err := l.store(note); err != nil {
		return fmt.Errorf("audit: store checkpoint: %w", err)
	}
	l.notes.set(note, CheckpointState{Size: t.size, Time: l.cfg.Clock.Now()})
	return nil
}

// sign asks the key for a signature of the tip. tlog checks it before anyone sees it.
func (l *Log) sign(ctx context.Context, t tip) ([]byte, error) {
	signer, err := tlog.NewP256Signer(l.cfg.Origin, l.cfg.Signer.Public, func(digest []byte) ([]byte, error) {
		return l.cfg.Signer.SignDigest(ctx, digest)
	})
	if err != nil {
		return nil, err
	}
	return tlog.Checkpoint{Origin: l.cfg.Origin, Size: uint64(t.size), Root: t.root}.Sign(signer)
}

// store replaces the checkpoint file: after a crash the old or the new one is there, whole.
// Only want of space for the new file leaves the log alive.
func (l *Log) store(note []byte) error {
	files := l.cfg.Files
	if err := removeFile(files, checkpointNew); err != nil {
		return err
	}
	f, err := files.Create(checkpointNew, int64(len(note)))
	if err != nil {
		return err
	}
	_, err = f.WriteAt(note, 0)
	if err == nil && !l.cfg.skipSync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = files.Rename(checkpointNew, checkpointName)
	}
	if err == nil {
		err = files.SyncDir()
	}
	if err != nil {
		return l.die(err)
	}
	return nil
}

// readNote returns the stored checkpoint; nil if there is none.
func readNote(files Files) ([]byte, error) {
	f, err := files.Open(checkpointName, ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > tlog.MaxNote {
		return nil, fmt.Errorf("%w: file of %d bytes", ErrCheckpoint, size)
	}
	note := make([]byte, size)
	if n, err := f.ReadAt(note, 0); err != nil && (err != io.EOF || n < len(note)) {
		return nil, err
	}
	return note, nil
}

// openNote checks a note's signature and origin.
func openNote(note []byte, origin string, keys ...tlog.Verifier) (tlog.Checkpoint, error) {
	c, err := tlog.Open(note, keys...)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	if origin != "" && c.Origin != origin {
		return c, fmt.Errorf("%w: of %q, not of %q", ErrCheckpoint, c.Origin, origin)
	}
	return c, nil
}
