package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/keyrack/keyrack/internal/tlog"
)

// How a record becomes durable. Append puts it into pending, under Log.mu. A commit, of which
// there is one at a time, swaps pending for an empty queue; while it writes and syncs, the next
// records gather there and ride in the next commit. For each batch, in this order:
//
//	the leaves join the tree, the root goes into the header, the key makes the MAC and is wiped
//	one write, one sync
//	the tip is published: Durable moves, whoever waits is woken by closing one channel
//
// If the write or the sync fails the tip never moves again, so nothing that may be lost was
// ever acknowledged.

// committer is what a commit works on; [Log.commitMu] guards it.
type committer struct {
	work    queue         // records taken from pending and not yet written
	out     []byte        // memory of the batch that is written
	active  *segment      // where it goes
	tree    tlog.Frontier // over all records written
	chain   *macChain     // nil while there is no key
	keyFrom uint64        // the segment whose nonce made the chain's start key
	keyed   atomic.Bool   // chain != nil; read by State without the lock
	last    uint32        // records of the newest batch
}

// segment is the file that batches are written to. Whoever uses its file outside a commit holds
// a reference, so that going on to the next segment does not close it under them.
type segment struct {
	file   File
	header *segmentHeader
	at     int64  // where the next batch goes
	number uint64 // of the next batch
	refs   atomic.Int32
}

// left returns the bytes behind the last batch.
func (s *segment) left() int64 { return s.header.size - s.at }

// retain takes a reference; the caller knows that there is another.
func (s *segment) retain() { s.refs.Add(1) }

// release gives one reference back; the last one closes the file. A nil segment may be
// released.
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
		runtime.Gosched() // whoever the last batch woke may ride in this one
		l.commitMu.Lock()
		l.commit()
		l.commitMu.Unlock()
	}
}

// commit makes durable what is pending and what an earlier commit could not place. The caller
// holds commitMu. An error is for Close: all others learn it by waiting.
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

// commitWork writes what was taken, batch by batch, each as large as the segment and maxBatch
// allow. What it cannot place stays in work for the next commit.
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

// write writes one batch, syncs it and publishes it. After an error the tree is ahead of the
// file, and the caller ends the log.
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
	l.last = b.count
	l.active.number++
	l.left.Store(l.active.left())
	if l.pub.set(tip{size: end, root: b.root, file: l.active}, &l.durable) {
		signal(l.news)
	}
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

// roll goes on to the next segment, under the same chain of keys. It waits while one is being
// made; if none can be, the log is stalled, and [Log.fillAhead] wakes the committer once there
// is one.
func (l *Log) roll() error {
	next, err := l.nextFile()
	l.stall(err != nil)
	if err != nil {
		return err
	}
	return l.begin(next, newNonce(), l.chain, l.keyFrom)
}

// stall says whether accepted records have no place to go. More are then refused, so that what
// waits stays bounded, and who waits to append is told.
func (l *Log) stall(stalled bool) {
	l.mu.Lock()
	l.stalled = stalled
	l.mu.Unlock()
	if stalled {
		l.unblock.Broadcast()
	}
}

// nextFile returns a file for the next segment.
func (l *Log) nextFile() (spare, error) {
	if l.cfg.inline || l.active == nil { // nobody else makes one
		l.fillAhead()
	}
	next, err := l.ahead.take()
	if err != nil || l.active == nil || l.cfg.Durability == Synced || l.cfg.skipSync {
		return next, err
	}
	// With durability "written", a power cut may then cost batches of the last segment only,
	// and recovery knows where to expect it.
	if err := l.active.file.Sync(); err != nil {
		return next, l.die(err)
	}
	return next, nil
}

// begin makes a file without batches the active segment, under a chain of keys whose start key
// came from the nonce of segment keyFrom. The header is synced before the first batch is
// written: so a header that is damaged, with batches behind it, was damaged later. The caller
// holds commitMu. On an error the log is dead and keeps the chain it had.
func (l *Log) begin(next spare, nonce [32]byte, chain *macChain, keyFrom uint64) error {
	h := &segmentHeader{
		number: next.number, size: l.cfg.SegmentBytes, origin: l.origin, nonce: nonce,
		previous: l.index.lastTag(next.number), mode: l.mode(chain), tree: l.tree,
	}
	if chain != nil {
		h.keyFrom = keyFrom
	}
	if err := l.writeHeader(next.file, h); err != nil {
		return l.die(err)
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
	if before != nil && before.file != next.file {
		before.cut()
		_ = before.release() // all in it is synced: closing it has nothing to tell
	}
	return nil
}

func (l *Log) mode(chain *macChain) (mode byte) {
	if chain != nil {
		mode |= modeKeyed
	}
	if l.cfg.Durability == Written {
		mode |= modeWritten
	}
	return mode
}

func (l *Log) writeHeader(f File, h *segmentHeader) error {
	if _, err := f.WriteAt(h.encode(), 0); err != nil || l.cfg.skipSync {
		return err
	}
	return f.Sync()
}

// Rekey asks StartKey for a fresh start key and begins a segment with it; whoever unlocks the
// appliance calls it. If there is no key now, the batches that follow say "locked". It returns
// StartKey's error, or why no segment can be begun, and the log goes on as it was, unless the
// error wraps [ErrDead].
func (l *Log) Rekey() error {
	nonce := newNonce()
	chain, err := startChain(l.cfg.StartKey, nonce) // may ask the token: not under the lock
	if err != nil {
		return err
	}
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	old := l.chain
	if err := l.rekey(nonce, chain); err != nil {
		chain.free()
		return fmt.Errorf("audit: begin a segment: %w", err)
	}
	old.free()
	return nil
}

// rekey begins a segment with a chain of its own: in the same file while that holds no batch.
func (l *Log) rekey(nonce [32]byte, chain *macChain) error {
	if err := l.pub.over(); err != nil {
		return err
	}
	var next spare
	if l.active != nil && l.active.number == 0 {
		next = spare{l.active.header.number, l.active.file}
	} else {
		var err error
		if next, err = l.nextFile(); err != nil {
			return err
		}
	}
	return l.begin(next, nonce, chain, next.number)
}

// newNonce returns 32 random bytes.
func newNonce() (n [32]byte) {
	rand.Read(n[:]) // never fails: crypto/rand ends the program instead
	return n
}
