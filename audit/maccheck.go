package audit

import (
	"crypto/hmac"

	"github.com/keyrack/keyrack/internal/securemem"
)

// macCheck checks the MACs of batches in order, for who can get at the start keys: the
// appliance itself.
type macCheck struct {
	startKey func([32]byte) (*securemem.Buffer, error) // nil: nothing is checked
	nonce    func(segment uint64) ([32]byte, error)    // of a segment's header
	chain    *macChain                                 // nil: batches say locked, or there is no key now
	from     uint64                                    // the segment whose nonce made the chain
	next     uint64                                    // the segment whose key the chain holds
}

// enter begins a segment; all its batches must be checked, from the first.
func (m *macCheck) enter(h *segmentHeader) error {
	if h.mode&modeKeyed == 0 || m.startKey == nil {
		m.free()
		return nil
	}
	if m.chain == nil || m.from != h.keyFrom || m.next > h.number {
		if err := m.begin(h.keyFrom); err != nil {
			return err
		}
	}
	for ; m.next < h.number; m.next++ {
		m.chain.skip(m.next)
	}
	m.chain.enter(h.number)
	m.next = h.number + 1
	return nil
}

// begin asks for the start key of a segment's nonce.
func (m *macCheck) begin(from uint64) error {
	m.free()
	nonce, err := m.nonce(from)
	if err != nil {
		return err
	}
	m.chain, err = startChain(m.startKey, nonce)
	m.from, m.next = from, from
	return err
}

// check reports whether there was a MAC and a key to check it with, and whether the batch
// passes.
func (m *macCheck) check(b *batchHeader) (checked, ok bool) {
	if m.chain == nil || b.locked {
		return false, true
	}
	var header [batchBytes]byte
	b.put(header[:], nil)
	want := m.chain.mac(header[:batchMAC], b.number)
	return true, hmac.Equal(want[:], b.mac[:])
}

// free wipes the keys; the check may go on with another segment.
func (m *macCheck) free() {
	m.chain.free()
	m.chain = nil
}
