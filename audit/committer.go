package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/keyrack/keyrack/internal/tlog"
)

// committer is what a commit works on; [Log.commitMu] guards it.
type committer struct {
	work    queue // records taken from pending and not yet written
	out     []byte
	active  *segment
	tree    tlog.Frontier // over all records written
	chain   *macChain     // nil while there is no key
	keyFrom uint64        // the segment whose nonce made the chain's start key
	keyed   atomic.Bool   // chain != nil, for State
}

// segment is the file that batches are written to.
type segment struct {
	file   File
	header *segmentHeader
	at     int64  // where the next batch goes
	number uint64 // of the next batch
	refs   atomic.Int32
}

func (s *segment) left() int64 { return s.header.size - s.at }

func (s *segment) retain() { s.refs.Add(1) }

// release gives one reference back; the last one closes the file. A nil segment may be released.
func (s *segment) release() error {
	if s == nil || s.refs.Add(-1) != 0 {
		return nil
	}
	return s.file.Close()
}

// runCommitter commits whenever there is something to commit.
func (l *Log) runCommitter(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		l.commitMu.Lock()
		l.commit()
		l.commitMu.Unlock()
	}
}

// commit makes durable what is pending and what an earlier commit could not place. The caller holds commitMu. An error is for Close: all others
// learn it by waiting.
func (l *Log) commit() error {
	if err := l.commitWork(); err != nil {
		return err
	}
	l.mu.Lock()
	l.pending, l.work = l.work, l.pending
	l.mu.Unlock()
	l.unblock.Broadcast()
	return l.commitWork()
}

// commitWork writes what was taken, batch by batch.
func (l *Log) commitWork() error {
	for !l.work.empty() {
		if err := l.Err(); errors.Is(err, ErrDead) {
			return err
		}
		frames, leaves := l.work.next(capacity(l.active.left()))
		if len(leaves) == 0 {
			if err := l.roll(); err != nil {
				return err
			}
			continue
		}
		if err := l.write(frames, leaves); err != nil {
			return l.die(err)
		}
	}
	l.work.reset()
	return nil
}

// write writes one batch, syncs it and publishes it.
func (l *Log) write(frames []byte, leaves []tlog.Hash) error {
	for i := range leaves {
		l.tree.Append(leaves[i])
	}
	end := Position(l.tree.Size())
	b := batchHeader{
		tag: l.active.header.tag, locked: l.chain == nil, number: l.active.number,
		first: end - Position(len(leaves)), count: uint32(len(leaves)), length: uint32(len(frames)), root: l.tree.Root(),
	}
	out := l.lay(&b, frames)
	if _, err := l.active.file.WriteAt(out, l.active.at); err != nil {
		return err
	}
	if l.cfg.Durability == Synced && !l.cfg.skipSync {
		if err := l.active.file.Sync(); err != nil {
			return err
		}
	}
	l.active.at += b.span()
	l.active.number++
	l.left.Store(l.active.left())
	l.publish(tip{size: end, root: b.root, file: l.active})
	l.checkSpace()
	return nil
}

// lay returns the batch as it goes into the file, in memory that the next one uses again.
func (l *Log) lay(b *batchHeader, frames []byte) []byte {
	n := int(b.span())
	if cap(l.out) < n {
		l.out = make([]byte, n, 2*n)
	}
	out := l.out[:n]
	clear(out[batchBytes+copy(out[batchBytes:], frames):])
	if l.chain == nil {
		b.put(out, nil)
	} else {
		b.put(out, func(covered []byte) [32]byte { return l.chain.mac(covered, b.number) })
	}
	return out
}

func (l *Log) publish(t tip) {
	if l.pub.set(t, &l.durable) {
		signal(l.news)
	}
}

// roll goes on to the next segment. It waits while one is being made; without one the log is stalled, and [Log.runAhead] wakes the committer
// when there is.
func (l *Log) roll() error {
	if l.cfg.inline {
		l.fillAhead()
	}
	next, err := l.ahead.take()
	l.stall(err != nil)
	if err != nil {
		return err
	}
	if l.cfg.Durability == Written && !l.cfg.skipSync {
		// A power cut may then cost batches of the last segment only, and recovery knows where to expect it.
		if err := l.active.file.Sync(); err != nil {
			return l.die(err)
		}
	}
	return l.begin(next, newNonce(), l.chain, l.keyFrom)
}

func (l *Log) stall(stalled bool) {
	l.mu.Lock()
	l.stalled = stalled
	l.mu.Unlock()
}

// begin makes a file that holds no batch the active segment. Its header is synced before the first batch is written, so that a segment whose
// header is damaged was either never used or is damaged. The caller holds commitMu. On an error the log is dead.
func (l *Log) begin(next spare, nonce [32]byte, chain *macChain, keyFrom uint64) error {
	h := &segmentHeader{number: next.number, size: l.cfg.SegmentBytes, origin: l.origin, nonce: nonce, tree: l.tree, previous: l.index.lastTag(next.number)}
	if chain != nil {
		h.mode, h.keyFrom = modeKeyed, keyFrom
	}
	if l.cfg.Durability == Written {
		h.mode |= modeWritten
	}
	if _, err := next.file.WriteAt(h.encode(), 0); err != nil {
		return l.die(err)
	}
	if !l.cfg.skipSync {
		if err := next.file.Sync(); err != nil {
			return l.die(err)
		}
	}
	chain.enter(next.number)
	l.chain, l.keyFrom = chain, keyFrom
	l.keyed.Store(chain != nil)
	l.index.add(h)
	before := l.active
	l.active = &segment{file: next.file, header: h, at: headerBytes}
	l.active.retain()
	l.left.Store(l.active.left())
	l.pub.move(l.active)
	if before != nil && before.file == next.file { // the same file, begun anew
		return nil
	}
	return before.release()
}

// Rekey asks for a fresh start key and begins a segment with it; the rack calls it when the appliance was unlocked. Without a key now the batches
// that follow say "locked". It returns StartKey's error, or why no segment can be begun; the log then goes on as it was, unless it died.
func (l *Log) Rekey(context.Context) error {
	nonce := newNonce()
	chain, err := startChain(l.cfg.StartKey, nonce)
	if err != nil {
		return err
	}
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	if err := l.Err(); errors.Is(err, ErrDead) {
		chain.free()
		return err
	}
	next, err := l.nextFile()
	if err != nil {
		chain.free()
		return fmt.Errorf("audit: begin a segment: %w", err)
	}
	old := l.chain
	if err := l.begin(next, nonce, chain, next.number); err != nil {
		chain.free()
		return err
	}
	old.free()
	return nil
}

// nextFile returns the active segment's own file while it holds no batch, and else the next.
func (l *Log) nextFile() (spare, error) {
	if l.active != nil && l.active.number == 0 {
		return spare{l.active.header.number, l.active.file}, nil
	}
	if l.active == nil || l.cfg.inline {
		l.fillAhead()
	}
	next, err := l.ahead.take()
	if err == nil && l.active != nil && l.cfg.Durability == Written {
		err = l.active.file.Sync()
	}
	return next, err
}

func newNonce() (n [32]byte) {
	rand.Read(n[:]) // never fails: crypto/rand ends the program instead
	return n
}
