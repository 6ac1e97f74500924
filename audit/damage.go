package audit

import (
	"fmt"
	"strings"
)

// Damage is one thing found wrong with a log, and where. It wraps [ErrDamaged], and
// [ErrTruncated] or [ErrForked] where these say more.
type Damage struct {
	Segment uint64   // number of the file
	Batch   int64    // in the segment, from 0; -1 if no batch can be named
	First   Position // records First up to, but not including, Last are concerned; where both are equal, none is known to be
	Last    Position
	What    string

	kind error
}

// damageAt is a Damage of a whole segment, or of a place in it that no batch describes.
func damageAt(segment uint64, at Position, what string) *Damage {
	return &Damage{Segment: segment, Batch: -1, First: at, Last: at, What: what}
}

// Error says what is wrong and where.
func (d *Damage) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "audit: segment %d", d.Segment)
	if d.Batch >= 0 {
		fmt.Fprintf(&s, ", batch %d", d.Batch)
	}
	switch {
	case d.Last == d.First+1:
		fmt.Fprintf(&s, ", record %d", d.First)
	case d.Last > d.First:
		fmt.Fprintf(&s, ", records %d to %d", d.First, d.Last-1)
	case d.Batch >= 0 || d.First > 0:
		fmt.Fprintf(&s, ", at record %d", d.First)
	}
	return s.String() + ": " + d.What
}

// Unwrap returns ErrDamaged and what narrows it down.
func (d *Damage) Unwrap() []error {
	if d.kind == nil {
		return []error{ErrDamaged}
	}
	return []error{ErrDamaged, d.kind}
}
