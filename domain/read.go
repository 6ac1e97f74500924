package domain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Reasons why a row is refused once the table is read.
var (
	errTableMAC  = damage("not authentic: the table was altered, or belongs to other slots")
	errAppliance = damage("belongs to another appliance")
	errNotListed = damage("not in the slot table")
	errMissing   = damage("in the slot table, but not in the store")
	errRowDigest = damage("differs from what the slot table says")
	errOtherKind = errors.New("made by a token of another kind")
	errTooMany   = damage("more rows of this kind than a domain has")

	errRootEnded = errors.New("its root was ended in this token (the domain key was rotated, the slot removed, or the appliance zeroized), " +
		"or belongs to another token; start from the newest state of the store, or with the token that made it")
)

// stored is the rows of a domain as they were found, copied out of one snapshot. Each list is in
// the order of names.
type stored struct {
	table   []byte // nil when there is none
	slots   []keystore.Entry
	earlier []keystore.Entry
	retired []keystore.Entry
}

// empty reports whether there is no row at all.
func (f *stored) empty() bool {
	return f.table == nil && len(f.slots)+len(f.earlier)+len(f.retired) == 0
}

// readStored returns all rows of a domain. It reads at most 33 of each kind, however
// many there are.
func readStored(r keystore.Reader) (found stored, err error) {
	t, err := r.Get(tableName())
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return stored{}, err
	}
	if err == nil {
		found.table = append([]byte{}, t...)
	}
	for _, kind := range []struct {
		space keystore.Space
		max   int
		rows  *[]keystore.Entry
	}{
		{keystore.SpaceSlot, maxSlots, &found.slots},
		{keystore.SpaceDomainKey, maxRetired, &found.earlier}, // one at most is listed; the check of the listing says which is not
		{keystore.SpaceRetired, maxRetired, &found.retired},
	} {
		if *kind.rows, err = scan(r, kind.space, kind.max); err != nil {
			return stored{}, err
		}
	}
	return found, nil
}

// scan returns copies of all rows of a space, of which there may be max.
func scan(r keystore.Reader, space keystore.Space, max int) (all []keystore.Entry, err error) {
	lo, hi := keystore.Range(space)
	for e, err := range r.Scan(lo, hi) {
		if err != nil {
			return nil, err
		}
		if len(all) == max {
			return nil, &RowError{e.Name, errTooMany}
		}
		all = append(all, keystore.Entry{Name: e.Name, Value: append([]byte{}, e.Value...)})
	}
	return all, nil
}

// read returns the domain keys that the stored rows give with the token, after it has authenticated
// all of them. It copies the rows out first: a token may take seconds, and a View should not.
func (k *Keyring) read(ctx context.Context) (*keys, error) {
	var found stored
	err := k.store.View(ctx, func(r keystore.Reader) (err error) {
		found, err = readStored(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	if found.table == nil {
		return nil, ErrNotCreated
	}
	s, err := found.parse()
	if err != nil {
		return nil, err
	}
	h := &keys{state: s}
	if h.newest, err = k.unwrapAny(ctx, &s); err != nil {
		return nil, err
	}
	if err = k.judge(h, found); err == nil && h.earlier != nil {
		h.before, err = h.openEarlier()
	}
	if err != nil {
		h.free(nil)
		return nil, err
	}
	return h, nil
}

// parse decodes every row; one that is malformed is refused, whether it is needed or not.
func (f *stored) parse() (s state, err error) {
	s.row = f.table
	if s.table, err = parseTable(f.table); err != nil {
		return state{}, err
	}
	if s.slots, err = parseAll(f.slots, parseSlot); err != nil {
		return state{}, err
	}
	if s.retired, err = parseAll(f.retired, parseRetired); err != nil {
		return state{}, err
	}
	if s.table.earlier != nil && len(f.earlier) > 0 {
		s.earlier = f.earlier[0].Value // the only one, as the listing will show
	}
	return s, nil
}

// parseAll decodes rows of one kind, and names the first that is malformed.
func parseAll[T any](rows []keystore.Entry, parse func(keystore.Name, []byte) (T, error)) (all []T, err error) {
	for _, e := range rows {
		one, err := parse(e.Name, e.Value)
		if err != nil {
			return nil, &RowError{e.Name, err}
		}
		all = append(all, one)
	}
	return all, nil
}

// unwrapAny returns the domain key of the first slot of this token. Slots of other tokens are
// passed over; any other failure ends the attempt, so that an altered slot is reported and not
// papered over by the next, and a token is not asked in a loop. The table is not authenticated
// here: what it lists only decides what is tried first, and makes the error more useful.
func (k *Keyring) unwrapAny(ctx context.Context, s *state) (*securemem.Buffer, error) {
	others := []error{ErrNoSlot}
	kind := k.token.Describe().Kind
	for _, slot := range s.listedFirst() {
		if slot.root.kind != kind {
			others = append(others, &RowError{slotName(slot.id), s.explain(slot, errOtherKind)})
			continue
		}
		key, err := slot.unwrap(ctx, k.token)
		if err == nil {
			return key, nil
		}
		if !errors.Is(err, hsm.ErrBlob) {
			return nil, &RowError{slotName(slot.id), err}
		}
		others = append(others, &RowError{slotName(slot.id), s.explain(slot, fmt.Errorf("%w: %w", errRootEnded, err))})
	}
	for _, e := range s.table.slots {
		if !slices.ContainsFunc(s.slots, func(s *slot) bool { return s.id == e.id }) {
			others = append(others, &RowError{slotName(e.id), errMissing})
		}
	}
	return nil, errors.Join(others...)
}

// listedFirst returns the slots, those first that are as the table says: with a slot of another
// table beside them, it is that slot that is then refused, and not this table.
func (s *state) listedFirst() []*slot {
	var listed, rest []*slot
	for _, slot := range s.slots {
		if s.listed(slot) {
			listed = append(listed, slot)
		} else {
			rest = append(rest, slot)
		}
	}
	return append(listed, rest...)
}

// listed reports whether the table has the slot as it is.
func (s *state) listed(slot *slot) bool {
	return slices.Contains(s.table.slots, entry{slot.id, digest(slot.encode())})
}

// explain returns why a slot was passed over: err, and that the slot is not the table's, which may
// be the reason for it.
func (s *state) explain(slot *slot, err error) error {
	if s.listed(slot) {
		return err
	}
	return fmt.Errorf("%w; as it is now: %w", errRowDigest, err)
}

// judge checks the table under the key that a slot gave, then every row against the table. The
// order matters for what is said, not for what is refused: with a wrong MAC the table is at fault,
// with a right one the row.
func (k *Keyring) judge(h *keys, found stored) error {
	body := found.table[:len(found.table)-sha256.Size] // as stored, not as parsed and encoded again
	mac, err := appendMAC(nil, h.newest.Bytes(), h.table.appliance, body)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(mac, found.table[len(body):]) != 1 {
		return &RowError{tableName(), errTableMAC}
	}
	if h.table.appliance != k.appliance { // changed since Open, when others were told this id
		return &RowError{tableName(), errAppliance}
	}
	if err := h.table.match(slices.Concat(found.slots, found.earlier, found.retired)); err != nil {
		return err
	}
	return h.consistent()
}

// match checks that there are the rows that t lists, no others, and all as listed.
func (t *table) match(rows []keystore.Entry) error {
	there, listed := map[keystore.Name]bool{}, map[keystore.Name][sha256.Size]byte{}
	for _, e := range rows {
		there[e.Name] = true
	}
	for _, l := range t.listings() {
		listed[l.name] = l.digest
		if !there[l.name] {
			return &RowError{l.name, errMissing}
		}
	}
	for _, e := range rows {
		switch want, ok := listed[e.Name]; {
		case !ok:
			return &RowError{e.Name, errNotListed}
		case digest(e.Value) != want:
			return &RowError{e.Name, errRowDigest}
		}
	}
	return nil
}

// consistent checks that rows, each of which is authentic, are of one appliance and one version,
// and that no root is both in use and to be destroyed.
func (s *state) consistent() error {
	for _, slot := range s.slots {
		switch {
		case slot.appliance != s.table.appliance:
			return &RowError{slotName(slot.id), errAppliance}
		case slot.version != s.table.version:
			return &RowError{slotName(slot.id), errSlotVersion}
		}
	}
	for _, r := range s.retired {
		if r.appliance != s.table.appliance {
			return &RowError{retiredName(r.slot), errAppliance}
		}
		if slices.ContainsFunc(s.slots, func(s *slot) bool { return bytes.Equal(s.root.blob, r.root.blob) }) {
			return &RowError{retiredName(r.slot), errRetiredInUse}
		}
	}
	return nil
}

// openEarlier returns the version before the table's.
func (h *keys) openEarlier() (*securemem.Buffer, error) {
	key, err := openVersion(h.newest.Bytes(), h.table.appliance, h.table.version, h.earlier)
	if errors.Is(err, errVersionSeal) {
		return nil, &RowError{versionName(h.table.version - 1), err}
	}
	return key, err
}
