package sealed

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// unchecked turns the index and the state root off. Only tests set it, to show that what they do to
// the rows below would be believed otherwise.
var unchecked atomic.Bool

const (
	anchorSize = 16 + 8 + 8 + 32 // node ‖ counter ‖ generation ‖ state root
	rootAt     = 16 + 8 + 8      // of the state root in it
)

// anchor is the value of an anchor row.
type anchor [anchorSize]byte

// generation returns the generation, which orders the versions of one course of things.
func (a *anchor) generation() uint64 { return binary.BigEndian.Uint64(a[24:]) }

// anchorName returns the name of a node's anchor row.
func anchorName(node [16]byte) keystore.Name {
	return keystore.MakeName(keystore.SpaceAnchor, string(node[:]))
}

// version is a state of the whole store: the anchor row that says so, and what that stands for. It
// is immutable. Nothing of it is secret but keys.
type version struct {
	anchor anchor
	tree   *node  // shares its nodes with those of the versions beside it
	keys   keyset // of which older bucket rows may need the older
}

// newVersion returns the version of this generation that consists of tree. Its state root is made
// with the newest of keys, over the appliance's id, the rest of the anchor row and the tree's root:
// so neither the generation nor, when there is one, the counter of a token can be exchanged.
func (s *Store) newVersion(generation uint64, tree *node, keys keyset) *version {
	v := &version{tree: tree, keys: keys}
	row := append(v.anchor[:0], s.node[:]...)
	row = binary.BigEndian.AppendUint64(row, 0) // no token counts generations yet
	row = binary.BigEndian.AppendUint64(row, generation)
	var room [16 + anchorSize]byte
	message := append(append(room[:0], s.appliance[:]...), row...)
	value := tree.value()
	seal.MAC(row, keys.newest().state.Bytes(), append(message, value[:]...))
	return v
}

// ledger knows the versions that a transaction may meet: the newest one that is acknowledged, those
// that Updates under way have made on top of it, and those that it has replaced while a View that
// began before that has not found its version yet.
//
// An Update may see what others before it wrote and have not committed, and when their commit fails
// it runs again; so it is enough that a version stays known until the Update that made it has
// returned, and is forgotten then if nothing came of it.
type ledger struct {
	mu     sync.Mutex          // guards all below and the users of keys; held for a few instructions
	newest *version            // acknowledged; it is known, too
	known  map[anchor]*version // by the anchor row as it is stored
	floors map[uint64]int      // Views that look for a version of at least this generation
	pruned uint64              // no version of an earlier generation is known
	ended  bool                // the keys are wiped
}

// start makes v the one version known. The ledger holds its keys from then on.
func (l *ledger) start(v *version) {
	l.known, l.floors = make(map[anchor]*version), make(map[uint64]int)
	l.newest = v
	v.keys.hold(1)
	l.add(v)
}

// add makes a version known that an Update has written but not committed.
func (l *ledger) add(v *version) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v.keys.hold(1)
	if twin := l.known[v.anchor]; twin != nil {
		twin.keys.hold(-1) // deletions alone leave no trace of who made them
	}
	l.known[v.anchor] = v
}

// drop forgets a version that did not come to be. nil is none.
func (l *ledger) drop(v *version) {
	if v == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[v.anchor] == v {
		l.remove(v)
	}
}

// remove forgets a known version. The caller holds mu.
func (l *ledger) remove(v *version) {
	delete(l.known, v.anchor)
	v.keys.hold(-1)
}

// acknowledge notes that a version is durable: no transaction that begins from now on may meet an
// earlier one. nil is none.
func (l *ledger) acknowledge(v *version) {
	if v == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v.anchor.generation() > l.newest.anchor.generation() {
		v.keys.hold(1)
		l.newest.keys.hold(-1)
		l.newest = v
	}
	l.prune()
}

// prune forgets the versions that nobody may meet any more: those from before the newest that no View
// looks for. It looks at all known versions only when that bound has moved, so a View that takes long
// to find its version costs the Updates meanwhile nothing. The caller holds mu.
func (l *ledger) prune() {
	limit := l.newest.anchor.generation()
	for floor := range l.floors {
		limit = min(limit, floor)
	}
	if limit == l.pruned {
		return
	}
	l.pruned = limit
	for _, v := range l.known {
		if v.anchor.generation() < limit {
			l.remove(v)
		}
	}
}

// announce is called before a View takes its snapshot, which is therefore of the returned
// generation or a later one. One of find and withdraw must follow.
func (l *ledger) announce() (floor uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	floor = l.newest.anchor.generation()
	l.floors[floor]++
	return floor
}

// withdraw says that a View which was announced will not look for its version.
func (l *ledger) withdraw(floor uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(floor)
}

// settle takes back what announce noted. The caller holds mu.
func (l *ledger) settle(floor uint64) {
	if l.floors[floor]--; l.floors[floor] == 0 {
		delete(l.floors, floor)
		l.prune()
	}
}

// find returns the version that the store below shows to a View with this floor. The caller
// releases it.
func (l *ledger) find(row []byte, floor uint64) (*version, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.settle(floor)
	return l.lookup(row, floor)
}

// findLatest is find for an Update: nothing ran beside its function, so it sees at least all that
// is acknowledged by now.
func (l *ledger) findLatest(row []byte) (*version, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lookup(row, l.newest.anchor.generation())
}

// lookup returns the version with this anchor row, nil for none, if it is of the generation floor or
// a later one, and counts its keys as in use. The whole row is compared: node and counter, too. The
// caller holds mu.
func (l *ledger) lookup(row []byte, floor uint64) (v *version, err error) {
	if len(row) == anchorSize {
		v = l.known[anchor(row)]
	}
	switch {
	case v != nil && v.anchor.generation() >= floor:
	case unchecked.Load():
		v = l.newest
	default:
		return nil, l.reject(row, floor)
	}
	v.keys.hold(1)
	return v, nil
}

// reject says why there is no version for what the anchor row holds. It is told apart whether the
// row is older: that is somebody who has put a copy back.
func (l *ledger) reject(row []byte, floor uint64) error {
	n := anchorName([16]byte(l.newest.anchor[:]))
	switch {
	case row == nil:
		return broken(n, "state root is missing")
	case len(row) != anchorSize:
		return broken(n, "state root has not the length of one")
	}
	a := anchor(row)
	if a.generation() < floor {
		return broken(n, fmt.Sprintf("state root is of generation %d, older than %d, which is acknowledged", a.generation(), floor))
	}
	return broken(n, "state root is none that this appliance made")
}

// release ends the use of a version that find returned.
func (l *ledger) release(v *version) { l.unuse(v.keys) }

// use and unuse are what find and release do, for keys that no version has yet.
func (l *ledger) use(k keyset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.hold(1)
}

func (l *ledger) unuse(k keyset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.hold(-1)
}

// latest returns the newest acknowledged version, whatever is stored. The caller releases it.
func (l *ledger) latest() *version {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest.keys.hold(1)
	return l.newest
}

// current returns the newest acknowledged version, for its counts.
func (l *ledger) current() *version {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// end wipes all keys, when no transaction runs any more.
func (l *ledger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	for _, v := range l.known {
		l.remove(v)
	}
	l.newest.keys.hold(-1)
}
