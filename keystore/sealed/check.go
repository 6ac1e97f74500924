package sealed

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/keyrack/keyrack/keystore"
)

const (
	// maxProblems bounds the problems that a Report describes.
	maxProblems = 100
	// checkedRows is how many rows are checked in one snapshot. The store below keeps what a snapshot
	// shows, and may let an Update wait for its end, so none is held for long.
	checkedRows = 256
)

// Report is what a Check has found.
type Report struct {
	Generation   uint64
	Buckets      int       // bucket rows that are right
	Rows         int       // sealed rows that are right
	Problems     []Problem // at most 100, in the order in which they were met
	MoreProblems int       // beyond those
}

// Problem is one thing that is wrong with the store below.
type Problem struct {
	Row  keystore.Name // or that of a bucket, of the anchor or of the name key
	What string
}

// String returns the row's name and what is wrong.
func (p Problem) String() string { return fmt.Sprintf("%s: %s", p.Row, p.What) }

// add notes a problem.
func (r *Report) add(row keystore.Name, what string) {
	if len(r.Problems) == maxProblems {
		r.MoreProblems++
		return
	}
	r.Problems = append(r.Problems, Problem{row, what})
}

// tolerate notes an error that is damage and returns any other.
func (r *Report) tolerate(row keystore.Name, err error) error {
	var d *damage
	if !errors.As(err, &d) {
		return err
	}
	what := d.what
	if d.row != row {
		what = fmt.Sprintf("%s %s", d.row, d.what)
	}
	r.add(row, what)
	return nil
}

// checker is a Check that runs. Its memory is bounded by the number of buckets, not of rows.
type checker struct {
	store    *Store
	report   Report
	progress func(done, total int)
	done     int
	total    int

	buckets map[uint16]*checkedBucket
	lost    bool // the state root is broken: what is below is compared with the last one acknowledged
}

// checkedBucket is a bucket whose row was proved and opened.
type checkedBucket struct {
	leaf *node // of that row
	met  int   // records that were met and listed; what it lists, as long as it is the bucket's row
}

// Check reads everything and proves that it is complete: each bucket row agrees with the state root
// and opens, each record is listed and opens, and each record that is listed is there. It reads in
// many snapshots, each a short one, and proves each row against the state of the snapshot it is in;
// that none is missing holds for the last of them, whose generation is in the report. What this
// process writes meanwhile is no problem. What is broken is in the report; an error says that the
// Check has not come to its end: those of ctx, of the store below, and of securemem. progress is
// called between snapshots with the number of rows that were read and about how many there are; it
// may be nil.
func (s *Store) Check(ctx context.Context, progress func(done, total int)) (Report, error) {
	if progress == nil {
		progress = func(int, int) {}
	}
	if err := s.running.enter(); err != nil {
		return Report{}, err
	}
	defer s.running.leave()
	c := &checker{store: s, progress: progress, buckets: make(map[uint16]*checkedBucket)}
	for _, part := range []func(context.Context) error{c.checkBuckets, c.checkRows, c.checkMissing} {
		if err := part(ctx); err != nil {
			return c.report, err
		}
	}
	c.progress(c.done, c.done)
	return c.report, nil
}

// snapshot runs f over one snapshot. f tolerates what is damaged.
func (c *checker) snapshot(ctx context.Context, f func(*reader) error) error {
	if !c.lost {
		err := c.store.view(ctx, f)
		if err == nil {
			return nil
		}
		if err := c.report.tolerate(c.store.anchor, err); err != nil {
			return err
		}
		c.lost = true
	}
	return c.store.below.View(ctx, func(r keystore.Reader) error {
		o := newOpener(c.store, r.Get, c.store.ledger.latest())
		defer o.close()
		return f(&reader{o, r})
	})
}

// snapshots runs f in one snapshot after the other until it says that it is done.
func (c *checker) snapshots(ctx context.Context, f func(*reader) (done bool, err error)) error {
	for done := false; !done; {
		err := c.snapshot(ctx, func(r *reader) (err error) {
			done, err = f(r)
			return err
		})
		if err != nil {
			return err
		}
		c.progress(c.done, max(c.done, c.total))
	}
	return nil
}

// checkBuckets proves and opens the name key and every bucket that should have a row.
func (c *checker) checkBuckets(ctx context.Context) error {
	err := c.snapshot(ctx, func(r *reader) error {
		c.total = r.at.tree.buckets() + r.at.tree.records()
		return c.report.tolerate(nameKeyName(), r.checkNameKey())
	})
	if err != nil {
		return err
	}
	next := 0
	return c.snapshots(ctx, func(r *reader) (done bool, err error) {
		left := checkedRows
		for number, leaf := range r.at.tree.leaves(uint16(next), anySlot) {
			if left == 0 {
				return false, nil
			}
			left--
			if err := c.checkBucket(r, number, leaf); err != nil {
				return false, err
			}
			if next = int(number) + 1; next > math.MaxUint16 {
				break
			}
		}
		return true, nil
	})
}

func (c *checker) checkBucket(r *reader, number uint16, leaf *node) error {
	_, err := r.bucket(number)
	if err == nil {
		c.buckets[number] = &checkedBucket{leaf: leaf}
		c.report.Buckets++
	} else if err := c.report.tolerate(bucketName(number), err); err != nil {
		return err
	} else {
		c.buckets[number] = nil // what it lists is not known
	}
	c.done++
	return nil
}

// checkRows proves and opens every record. Names come in their order, buckets so at random: most
// records cost the opening of their bucket, too.
func (c *checker) checkRows(ctx context.Context) error {
	next, end := keystore.SealedRange()
	var last keystore.Name
	return c.snapshots(ctx, func(r *reader) (done bool, err error) {
		left := checkedRows
		for e, err := range r.below.Scan(next, end) {
			switch {
			case err != nil:
				return false, err
			case e.Name == last:
				continue
			case left == 0:
				return false, nil
			}
			left--
			if err := c.checkRow(r, e); err != nil {
				return false, err
			}
			next, last = e.Name, e.Name
		}
		return true, nil
	})
}

func (c *checker) checkRow(r *reader, e keystore.Entry) error {
	value, err := r.open(e.Name, e.Value)
	if err == nil {
		value.Free()
		c.report.Rows++
	} else if err := c.report.tolerate(e.Name, err); err != nil {
		return err
	}
	c.done++
	at := c.store.locate(e.Name)
	if b := c.buckets[at.bucket]; b != nil { // of one that has changed since, the count does not matter any more
		return c.met(r, at, &b.met)
	}
	return nil
}

// met counts a row that its bucket lists, also one whose record is not the listed one: that is a
// problem of its own, and the row is not missing. A bucket that was broken meanwhile is named once.
func (c *checker) met(r *reader, at spot, n *int) error {
	b, err := r.bucket(at.bucket)
	if err != nil {
		c.buckets[at.bucket] = nil
		return c.report.tolerate(bucketName(at.bucket), err)
	}
	if _, listed := b.mark(at.hash); listed {
		*n++
	}
	return nil
}

// checkMissing names the buckets that list records which are not there, and the rows of buckets
// that should have none. The names of missing records are not known: the index has only their
// hashes. Buckets that were changed since their row was checked have their records counted anew, by
// name alone.
func (c *checker) checkMissing(ctx context.Context) error {
	return c.snapshot(ctx, func(r *reader) error {
		c.report.Generation = r.at.anchor.generation()
		if err := c.checkStrays(r); err != nil {
			return err
		}
		counted, err := c.recount(r)
		if err != nil {
			return err
		}
		for number, leaf := range r.at.tree.leaves(0, anySlot) {
			b, known := c.buckets[number]
			met, changed := counted[number]
			switch {
			case known && b == nil: // what it lists is not known
				continue
			case !changed:
				met = &b.met
			}
			if left := leaf.rows - *met; left > 0 {
				c.report.add(bucketName(number), fmt.Sprintf("lists %d records that were removed", left))
			}
		}
		return nil
	})
}

// checkStrays names rows of buckets that should have none.
func (c *checker) checkStrays(r *reader) error {
	for e, err := range r.below.Scan(keystore.Range(keystore.SpaceBucket)) {
		if err != nil {
			return err
		}
		number, ok := parseBucketName(e.Name)
		switch {
		case !ok:
			c.report.add(e.Name, "is not the name of a bucket")
		case r.at.tree.leaf(number) == nil:
			c.report.add(e.Name, "was brought back, or written by someone else")
		}
	}
	return nil
}

// recount counts the listed records of those buckets that are not as they were when they were
// checked, and proves their rows.
func (c *checker) recount(r *reader) (map[uint16]*int, error) {
	counted := make(map[uint16]*int)
	for number, leaf := range r.at.tree.leaves(0, anySlot) {
		if b, known := c.buckets[number]; known && (b == nil || b.leaf == leaf) {
			continue
		}
		counted[number] = new(int)
	}
	if len(counted) == 0 {
		return counted, nil
	}
	lo, hi := keystore.SealedRange()
	for e, err := range r.below.Scan(lo, hi) {
		if err != nil {
			return nil, err
		}
		at := c.store.locate(e.Name)
		if b, known := c.buckets[at.bucket]; known && b == nil {
			continue
		}
		if n := counted[at.bucket]; n != nil {
			if err := c.met(r, at, n); err != nil {
				return nil, err
			}
		}
	}
	return counted, nil
}
