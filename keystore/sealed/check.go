package sealed

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/keystore"
)

const (
	// maxProblems bounds the problems that a Report describes.
	maxProblems = 100
	// progressRows is how many rows are checked between two calls of progress.
	progressRows = 256
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
	*reader
	report   Report
	progress func(done, total int)
	done     int
	total    int

	listed map[uint16]int // records that an intact bucket row lists and that were not met yet
}

// Check reads everything in one snapshot and proves that it is complete: each bucket row agrees with
// the state root and opens, each record is listed and opens, and each record that is listed is there.
// What is broken is in the report; an error says that the Check has not come to its end: those of
// ctx, of the store below, and of securemem. progress is called now and then with the number of rows
// that were read and about how many there are; it may be nil.
func (s *Store) Check(ctx context.Context, progress func(done, total int)) (Report, error) {
	if progress == nil {
		progress = func(int, int) {}
	}
	if err := s.running.enter(); err != nil {
		return Report{}, err
	}
	defer s.running.leave()
	var report Report
	check := func(r *reader) error {
		c := &checker{reader: r, report: report, progress: progress, listed: make(map[uint16]int)}
		err := c.run()
		report = c.report
		return err
	}
	err := s.view(ctx, check)
	if err == nil || report.tolerate(s.anchor, err) != nil {
		return report, err
	}
	// The state root itself is broken: what is below is compared with the last one acknowledged.
	return report, s.below.View(ctx, func(r keystore.Reader) error {
		o := newOpener(s, r.Get, s.ledger.latest())
		defer o.close()
		return check(&reader{o, r})
	})
}

// run checks everything once: the name key, the buckets, the rows, and that none is missing.
func (c *checker) run() error {
	tree := c.at.tree
	c.report.Generation = c.at.anchor.generation()
	c.total = tree.buckets() + tree.records()
	if err := c.report.tolerate(nameKeyName(), c.checkNameKey()); err != nil {
		return err
	}
	for _, step := range []func() error{c.checkBuckets, c.checkRows, c.checkMissing} {
		if err := step(); err != nil {
			return err
		}
	}
	c.progress(c.done, c.total)
	return nil
}

// step counts a row.
func (c *checker) step() {
	if c.done++; c.done%progressRows == 0 {
		c.progress(c.done, max(c.done, c.total))
	}
}

// checkBuckets proves and opens every bucket that should have a row, and names rows of buckets that
// should have none.
func (c *checker) checkBuckets() error {
	for e, err := range c.below.Scan(keystore.Range(keystore.SpaceBucket)) {
		if err != nil {
			return err
		}
		number, ok := parseBucketName(e.Name)
		switch {
		case !ok:
			c.report.add(e.Name, "is not the name of a bucket")
		case c.at.tree.leaf(number) == nil:
			c.report.add(e.Name, "was brought back, or written by someone else")
		}
	}
	for number := range c.at.tree.leaves(0, anySlot) {
		b, err := c.bucket(number)
		if err == nil {
			c.listed[number] = b.rows()
			c.report.Buckets++
		} else if err := c.report.tolerate(bucketName(number), err); err != nil {
			return err
		}
		c.step()
	}
	return nil
}

// checkRows proves and opens every record. Names come in their order, buckets so at random: most
// records cost the opening of their bucket, too.
func (c *checker) checkRows() error {
	lo, hi := keystore.SealedRange()
	for e, err := range c.below.Scan(lo, hi) {
		if err != nil {
			return err
		}
		value, err := c.open(e.Name, e.Value)
		if err == nil {
			value.Free()
			c.report.Rows++
		} else if err := c.report.tolerate(e.Name, err); err != nil {
			return err
		}
		c.met(e.Name)
		c.step()
	}
	return nil
}

// met takes a row off the list of its bucket, also one whose record is not the listed one: that is
// a problem of its own, and the row is not missing.
func (c *checker) met(n keystore.Name) {
	at := c.store.locate(n)
	b, err := c.bucket(at.bucket)
	if err != nil {
		return
	}
	if _, listed := b.mark(at.hash); listed {
		c.listed[at.bucket]--
	}
}

// checkMissing names the buckets that list records which are not there. The names of those are not
// known: the index has only their hashes.
func (c *checker) checkMissing() error {
	for number := range c.at.tree.leaves(0, anySlot) {
		if left := c.listed[number]; left > 0 {
			c.report.add(bucketName(number), fmt.Sprintf("lists %d records that were removed", left))
		}
	}
	return nil
}
