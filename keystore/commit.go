package keystore

import (
	"context"
	"errors"
	"slices"
)

// Bounds of one batch: beyond them a transaction waits until the open batch is committed.
const (
	batchRows  = 1000
	batchBytes = 4 * MaxBytes
)

// errStale is the outcome of a transaction whose reads came, or may have come, from a batch that
// the engine then refused. Its function runs again.
var errStale = errors.New("keystore: transaction read rows that were not committed")

// errCutOff is the outcome of a batch in whose commit the engine panicked.
var errCutOff = errors.New("keystore: commit was cut off")

// batch is what transactions wrote that commit together, in the order in which they ran; the last
// write of a row counts.
type batch struct {
	rows  map[Name]Row
	bytes int

	// done is closed when the outcome, revision or err, is there.
	done     chan struct{}
	revision Revision
	err      error
}

func newBatch() *batch { return &batch{rows: make(map[Name]Row), done: make(chan struct{})} }

func (b *batch) finish(r Revision, err error) {
	b.revision, b.err = r, err
	close(b.done)
}

// takes reports whether t fits in. An empty batch takes any transaction.
func (b *batch) takes(t *transaction) bool {
	return len(b.rows) == 0 || len(b.rows)+len(t.rows) <= batchRows && b.bytes+t.meter.bytes <= batchBytes
}

// sorted returns the rows in the order of names.
func (b *batch) sorted() []Row {
	rows := make([]Row, 0, len(b.rows))
	for _, row := range b.rows {
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Row) int { return a.Name.Compare(b.Name) })
	return rows
}

// Update implements [Store]. The function runs at once, when its turn has come, on top of all that
// ran before it, committed or not; the transaction joins the open batch; and whoever of a batch
// finds nobody committing commits it for all. So transactions gather while the medium is busy, and
// one that is alone waits for nobody.
func (l *Local) Update(ctx context.Context, f func(Tx) error) (Revision, error) {
	if err := l.calls.enter(); err != nil {
		return 0, err
	}
	defer l.calls.leave()
	for {
		b, failed := l.attempt(ctx, f)
		if b == nil {
			return 0, failed
		}
		l.settle(b)
		switch {
		case b.err == errStale, failed != nil && b.err != nil:
			continue // what f saw did not come to be
		case failed != nil:
			return 0, failed
		}
		return b.revision, b.err
	}
}

// attempt runs f once, in its turn, and returns the batch whose outcome decides on what f read and
// wrote, and f's error. Without a batch nothing was read that counts.
func (l *Local) attempt(ctx context.Context, f func(Tx) error) (*batch, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for {
		t, err := l.begin(ctx)
		if err != nil {
			return nil, err
		}
		err = t.run(f)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if b := l.join(t, err == nil); b != nil {
			return b, err
		}
	}
}

// join adds what t wrote to the open batch, if it is to be kept, and returns that batch. It returns
// nil when a batch that t read has failed meanwhile. The caller holds turn.
func (l *Local) join(t *transaction, keep bool) *batch {
	if keep && !l.current().takes(t) {
		l.settle(l.current())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.failures != l.failures {
		return nil
	}
	if keep {
		for name, row := range t.rows {
			l.open.rows[name] = row
		}
		l.open.bytes += t.meter.bytes
	}
	return l.open
}

func (l *Local) current() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// settle returns when b has its outcome, after committing it if nobody else does.
func (l *Local) settle(b *batch) {
	select {
	case <-b.done:
		return
	case l.committer <- struct{}{}:
		defer func() { <-l.committer }()
	}
	select {
	case <-b.done:
	default:
		l.commit() // b is the open batch: every other one was finished before its committer let go
	}
}

// commit closes the open batch, commits it, delivers it to the watchers and gives its transactions
// their outcome. The caller holds committer.
func (l *Local) commit() {
	l.mu.Lock()
	b := l.open
	l.committing, l.open = b, newBatch()
	l.mu.Unlock()
	r, err := Revision(0), errCutOff
	defer func() { l.conclude(b, r, err) }() // also when the engine panics: others wait for b
	r, err = l.write(b)
}

// conclude gives b its outcome. What a refused batch held is gone, and with it all that was built
// on top of it.
func (l *Local) conclude(b *batch, r Revision, err error) {
	l.mu.Lock()
	l.committing = nil
	var stale *batch
	if err != nil {
		l.failures++
		stale, l.open = l.open, newBatch()
	}
	l.mu.Unlock()
	if stale != nil {
		stale.finish(0, errStale)
	}
	b.finish(r, err)
}

// write makes the batch durable and visible, then waits until the watchers have it. A batch that
// wrote nothing is what was before.
func (l *Local) write(b *batch) (Revision, error) {
	r := l.feed.newest()
	if len(b.rows) == 0 {
		return r, nil
	}
	rows := b.sorted()
	if err := l.engine.Commit(r+1, rows); err != nil {
		return 0, err
	}
	changes := make([]Change, len(rows))
	for i, row := range rows {
		changes[i] = Change{row.Name, row.Deleted}
	}
	l.feed.deliver(event{r + 1, changes})
	return r + 1, nil
}
