package audit_test

import (
	"bytes"
	"testing"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/tlog"
)

// FuzzSegment lays bytes from outside over a segment of a closed log. Only the very bytes that the
// log wrote verify, down to the last bit; and what still opens has what its checkpoint covers.
func FuzzSegment(f *testing.F) {
	d, note := closedLog(f, 12)
	good := bytes.Clone(d.bytes(audit.SegmentFile(0)))
	opts := audit.VerifyOptions{Keys: []tlog.Verifier{verifier(f, origin, signingKey())}, StartKey: startKey}
	f.Add(uint16(0), good[:200])
	f.Add(uint16(audit.HeaderBytes), good[audit.HeaderBytes:][:audit.BatchBytes])
	f.Add(uint16(audit.HeaderBytes+audit.Sector), good[audit.HeaderBytes:][:audit.Sector])
	f.Add(uint16(audit.HeaderBytes+audit.BatchBytes), []byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		b := bytes.Clone(good)
		copy(b[int(at)%len(b):], patch)
		d := newDisk()
		d.names["checkpoint"] = &inode{seen: note, safe: note}
		d.names[audit.SegmentFile(0)] = &inode{seen: b, safe: bytes.Clone(b)}
		if _, err := audit.Verify(d, opts); (err == nil) != bytes.Equal(b, good) {
			t.Errorf("changed: %v, verify: %v", !bytes.Equal(b, good), err)
		}
		if l, err := audit.Open(tiny(d)); err == nil && l.Durable() != 12 {
			t.Errorf("opens with %d records of 12 that its checkpoint covers", l.Durable())
		}
	})
}
