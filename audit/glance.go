package audit

import (
	"fmt"

	"github.com/keyrack/keyrack/internal/cbor"
)

// Glance is what a follower that counts needs of a record: it is read without an allocation, in a
// tenth of the time that [ParseRecord] takes.
type Glance struct {
	Event    [16]byte
	Time     int64 // µs since 1970, UTC
	Op       uint16
	Error    uint16 // 0 is success
	Resource []byte // aliases the record
}

// lastGlanced is the member behind which nothing is read.
const lastGlanced = 11

// GlanceAt reads the members of a durable record, as [Log.Follow] gives it, that g has, up to the
// resource. It does not look at what stands behind that. Its errors wrap [ErrRecord].
func GlanceAt(record []byte, g *Glance) error {
	*g = Glance{}
	r := cbor.NewReader(record)
	n, err := r.Map()
	var member, next uint64
	for range n {
		if err == nil {
			member, err = r.UintKey(&next)
		}
		if err != nil || member > lastGlanced {
			break
		}
		err = g.read(&r, member)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return nil
}

// read reads one member, or passes over it.
func (g *Glance) read(r *cbor.Reader, member uint64) (err error) {
	switch member {
	case 1:
		_, err = readFixed(r, g.Event[:])
	case 2:
		g.Time, err = r.Int()
	case 3:
		_, err = readUint(r, &g.Op)
	case 8:
		_, err = r.Uint()
	case 9:
		_, err = readUint(r, &g.Error)
	case 7:
		_, err = r.Bytes()
	case lastGlanced:
		g.Resource, err = r.Text()
	default:
		_, err = r.Text()
	}
	return err
}
