package audit

import (
	"context"
	"fmt"

	"github.com/keyrack/keyrack/internal/tlog"
)

// cursor reads durable records in order while the log grows. It is for one goroutine.
type cursor struct {
	log  *Log
	r    *reader  // of the segment it is in
	pos  Position // of the next record
	rest []byte   // frames of the batch read last, from that record on
	last mark     // that batch
}

// mark is where a batch begins.
type mark struct {
	segment uint64
	at      int64 // in the file
	number  uint64
	first   Position
}

// seek goes to record p, which must be durable: a segment's header is final once a record
// behind it is.
func (c *cursor) seek(p Position) error {
	if err := c.enter(c.log.index.find(p)); err != nil {
		return err
	}
	return c.advance(p)
}

// resume goes to record p, which must be durable and stand in the batch at m or a later one.
func (c *cursor) resume(m mark, p Position) error {
	if c.r == nil || c.r.header.number != m.segment {
		if err := c.enter(m.segment); err != nil {
			return err
		}
	}
	c.r.at, c.r.number, c.r.next = m.at, m.number, m.first
	return c.advance(p)
}

// advance reads on to record p.
func (c *cursor) advance(p Position) error {
	c.pos, c.rest = p, nil
	for {
		b, err := c.batch()
		if err != nil {
			return err
		}
		if b.end() <= p {
			continue
		}
		c.rest = b.frames
		for at := b.first; at < p; at++ {
			_, _, c.rest, _ = nextFrame(c.rest)
		}
		return nil
	}
}

// mark returns the batch of the next record, or, between two batches, where the next one should
// be.
func (c *cursor) mark() mark {
	if len(c.rest) > 0 {
		return c.last
	}
	return mark{c.r.header.number, c.r.at, c.r.number, c.r.next}
}

// enter opens a segment.
func (c *cursor) enter(number uint64) error {
	c.close()
	f, h, err := openSegment(c.log.cfg.Files, number, ReadOnly)
	if err != nil {
		return err
	}
	if h == nil {
		f.Close()
		return damageAt(number, 0, "header is damaged")
	}
	c.r = newReader(f, h)
	return nil
}

// close closes the segment it is in.
func (c *cursor) close() {
	if c.r != nil {
		c.r.file.Close()
		c.r = nil
	}
}

// batch reads the next batch, which must be there, in this segment or the next.
func (c *cursor) batch() (batch, error) {
	for {
		b, found, err := c.r.read()
		if found {
			c.last = mark{c.r.header.number, b.at, b.number, b.first}
		}
		if found || err != nil {
			return b, err
		}
		if !c.log.index.ends(c.r.header.number, c.r.next) {
			return b, c.r.damage(c.r.next, c.r.next, "batch is missing")
		}
		if err := c.enter(c.r.header.number + 1); err != nil {
			return b, err
		}
	}
}

// record returns the next record, which must be durable. It is valid until the next call.
func (c *cursor) record() ([]byte, error) {
	if len(c.rest) == 0 {
		b, err := c.batch()
		if err != nil {
			return nil, err
		}
		if b.first != c.pos {
			return nil, fmt.Errorf("audit: read record %d, found %d", c.pos, b.first)
		}
		c.rest = b.frames
	}
	_, record, rest, _ := nextFrame(c.rest)
	c.rest = rest
	c.pos++
	return record, nil
}

// each calls f for the records up to end, which must be durable. f is told the position that is
// reached with a record.
func (c *cursor) each(ctx context.Context, end Position, f func(p Position, record []byte) error) error {
	for c.pos < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		record, err := c.record()
		if err != nil {
			return err
		}
		if err := f(c.pos, record); err != nil {
			return err
		}
	}
	return nil
}

// Walk calls f for each record from number from to before number to, in order, and returns. All
// of them must be durable. It reads no record before the first, but for those of its batch, and
// holds one batch in memory. f is called as by [Log.Follow]. It returns f's error, the context's,
// or one that wraps [tlog.ErrRange] or [ErrDamaged].
func (l *Log) Walk(ctx context.Context, from, to Position, f func(p Position, record []byte) error) error {
	if from > to || to > l.Durable() {
		return fmt.Errorf("audit: records %d to %d of %d: %w", from, to, l.Durable(), tlog.ErrRange)
	}
	if from == to {
		return nil
	}
	c := cursor{log: l}
	defer c.close()
	if err := c.seek(from); err != nil {
		return err
	}
	return c.each(ctx, to, f)
}

// Follow calls f for each durable record in order, from record number from on, and waits at the
// end for more. f is told the position that is reached with the record, which is where to go on
// after it, and the record's encoding, which is f's until it returns. Any number of followers
// may run; none slows the log down. It returns f's error, the context's, [ErrClosed], or one
// that wraps [ErrDead] or [ErrDamaged].
func (l *Log) Follow(ctx context.Context, from Position, f func(p Position, record []byte) error) error {
	if err := l.Wait(ctx, from+1); err != nil {
		return err
	}
	c := cursor{log: l}
	defer c.close()
	if err := c.seek(from); err != nil {
		return err
	}
	for {
		if err := c.each(ctx, l.Durable(), f); err != nil {
			return err
		}
		if err := l.Wait(ctx, c.pos+1); err != nil {
			return err
		}
	}
}
