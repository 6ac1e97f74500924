package kms

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/keystore"
)

// Check walks all rows of this package in the snapshot of r and calls problem
// for each inconsistency, in words for the operator: a key without a material that
// it should have, without its listing or its tags, any of them without a key, a wrong count of tags or materials, an alias that names no key of its account
// or is not listed under it, a listing without its alias, a wrong count of aliases
// or of an account's keys,
// a row that cannot be read, material that does not give its id.
//
// It reads by Scan alone, so a View's bound on opened values does not matter. It
// keeps some 100 bytes a key and an alias in memory. An error says that the walk
// ended early: the store's own, or the context's.
func (s *Service) Check(ctx context.Context, r keystore.Reader, problem func(string)) error {
	c := &checker{
		problem: problem, keys: map[api.KeyID]*checkedKey{}, aliases: map[aliasID]api.KeyID{}, owned: map[api.AccountID]uint64{},
		work: map[dueItem]bool{}, dying: map[api.KeyID]bool{},
	}
	for _, step := range []struct {
		space       keystore.Space
		first, last int // lengths of the components in bytes; 0 = any
		row         func(n keystore.Name, parts []string, value []byte)
	}{
		{keystore.SpaceKey, len(api.KeyID{}), -1, c.key},
		{keystore.SpaceKeyCount, len(api.AccountID{}), -1, c.count},
		{keystore.SpaceKeyMaterials, len(api.KeyID{}), -1, c.materials},
		{keystore.SpaceMaterial, len(api.KeyID{}), 32, c.material},
		{keystore.SpaceKeyTags, len(api.KeyID{}), -1, c.tags},
		{keystore.SpaceAccountKey, len(api.AccountID{}), len(api.KeyID{}), c.listing},
		{keystore.SpaceAlias, len(api.AccountID{}), 0, c.alias},
		{keystore.SpaceKeyAlias, len(api.KeyID{}), 0, c.mirror},
		{keystore.SpaceKeyImport, len(api.KeyID{}), -1, c.importing},
		{keystore.SpaceDue, 8, anyShape, c.due},
		{keystore.SpaceTombstone, 0, anyShape, c.tombstone},
		{keystore.SpaceKeyUsage, len(api.KeyID{}), -1, c.usage},
		{keystore.SpaceUsagePos, 0, -1, c.position},
	} {
		for e, err := range r.Scan(keystore.Range(step.space)) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("walk %s rows: %w", step.space, err)
			}
			if parts := e.Name.Components(); shaped(parts, step.first, step.last) {
				step.row(e.Name, parts, e.Value)
			} else {
				c.reportf("%s: rows of this space have other names", e.Name)
			}
		}
	}
	c.finish()
	return nil
}

// anyShape leaves the shape of a name to whoever reads it.
const anyShape = -2

// shaped reports whether a name has components of these lengths: last is -1 if
// there is only one, or none with first 0, and 0 if any length but 0 will do.
func shaped(parts []string, first, last int) bool {
	switch {
	case last == anyShape:
		return true
	case first == 0:
		return len(parts) == 0
	case len(parts) == 0 || len(parts[0]) != first:
		return false
	case last < 0:
		return len(parts) == 1
	}
	return len(parts) == 2 && len(parts[1]) > 0 && (last == 0 || len(parts[1]) == last)
}

// checker gathers what rows say of each other.
type checker struct {
	problem func(string)
	keys    map[api.KeyID]*checkedKey
	aliases map[aliasID]api.KeyID    // those that no listing was found for yet
	owned   map[api.AccountID]uint64 // keys by account

	work       map[dueItem]bool   // what keys say is to be done with them, and no row was found for yet
	dying      map[api.KeyID]bool // keys whose destruction has begun, and no tombstone was found for yet
	unshredded unshredded         // as counted
	closed     uint64             // tombstones that are closed and not shredded
}

// checkedKey is what is known of a key: what its row says, and what was found.
type checkedKey struct {
	account   api.AccountID
	spec      kmsapi.KeySpec
	origin    kmsapi.KeyOrigin
	state     kmsapi.KeyState
	current   []byte // KeyMaterialId; empty for none
	expiry    api.Time
	entries   uint16 // of its row of materials, that it counts
	aliases   uint16
	found     uint16 // aliases that name it
	tags      uint16
	tagged    int // tags that it has
	listed    bool
	wrong     bool // its row of materials cannot be that of the key, which was said
	materials []checkedMaterial
}

// checkedMaterial is a material that a key knows of.
type checkedMaterial struct {
	id          [32]byte
	here, found bool // its secret should be there, and is
}

func (c *checker) reportf(format string, args ...any) { c.problem(fmt.Sprintf(format, args...)) }

func (c *checker) key(n keystore.Name, parts []string, value []byte) {
	row, account, err := parseKeyRow(value)
	if err != nil {
		c.reportf("%s: %v", n, err)
		return
	}
	if id := api.KeyID([]byte(parts[0])); row.Multi != id.Multi() {
		c.reportf("%s: %v", n, row.notOf(id))
	}
	c.owned[account]++
	k := &checkedKey{account: account, spec: row.Spec, origin: row.Origin, expiry: row.Expiry, state: row.State, current: row.Current, entries: row.Materials, aliases: row.Aliases, tags: row.Tags}
	if len(k.current) > 0 && k.entries == 0 {
		k.materials = []checkedMaterial{{id: [32]byte(k.current), here: true}}
	}
	id := api.KeyID([]byte(parts[0]))
	c.keys[id] = k
	c.doomed(n, id, &row)
}

// materials comes behind all keys, and before the secrets.
func (c *checker) materials(n keystore.Name, parts []string, value []byte) {
	k := c.keys[api.KeyID([]byte(parts[0]))]
	if k == nil {
		c.reportf("%s: there is no such key", n)
		return
	}
	m, err := parseMaterialsRow(value)
	if err != nil {
		k.wrong = true
		c.reportf("%s: %v", n, err)
		return
	}
	for i := range m {
		k.materials = append(k.materials, checkedMaterial{id: [32]byte(m[i].ID), here: m[i].here()})
	}
	c.expiring(n, k, m)
	switch {
	case int(k.entries) != len(m):
		c.reportf("%s: it has %d materials, and the key counts %d", n, len(m), k.entries)
	case !bytes.Equal(m.in(kmsapi.MaterialCurrent).ID, k.current):
		c.reportf("%s: %x is current, and for the key %x", n, m.in(kmsapi.MaterialCurrent).ID, k.current)
	case !m.whole() && usableStates&(1<<k.state) != 0:
		c.reportf("%s: the key is %s and lacks material", n, k.state)
	}
}

// count comes behind all keys. An account of before there were such rows has none until its next key is made.
func (c *checker) count(n keystore.Name, parts []string, value []byte) {
	want := c.owned[api.AccountID([]byte(parts[0]))]
	if have, err := parseCount(value); err != nil {
		c.reportf("%s: %v", n, err)
	} else if have != want {
		c.reportf("%s: it counts %d keys, and there are %d", n, have, want)
	}
}

func (c *checker) material(n keystore.Name, parts []string, value []byte) {
	id, name := api.KeyID([]byte(parts[0])), [32]byte([]byte(parts[1]))
	k := c.keys[id]
	if k == nil {
		c.reportf("%s: there is no such key", n)
		return
	}
	i := slices.IndexFunc(k.materials, func(m checkedMaterial) bool { return m.id == name })
	switch {
	case i >= 0 && k.materials[i].here:
		k.materials[i].found = true
		if err := checkMaterialRow(value, k.spec); err != nil {
			c.reportf("%s: %v", n, err)
		} else if materialID(id, value[1:]) != name {
			c.reportf("%s: the material does not give its id", n)
		}
	case !k.wrong:
		c.reportf("%s: the key should not have this material", n)
	}
}

func (c *checker) tags(n keystore.Name, parts []string, value []byte) {
	tags, err := parseTagsRow(value)
	if err != nil {
		c.reportf("%s: %v", n, err)
		return
	}
	if k := c.keys[api.KeyID([]byte(parts[0]))]; k != nil {
		k.tagged = len(tags)
	} else {
		c.reportf("%s: there is no such key", n)
	}
}

func (c *checker) listing(n keystore.Name, parts []string, value []byte) {
	c.listedValue(n, value)
	k := c.keys[api.KeyID([]byte(parts[1]))]
	switch {
	case k == nil:
		c.reportf("%s: there is no such key", n)
	case string(k.account[:]) != parts[0]:
		c.reportf("%s: the key is of account %s", n, k.account)
	default:
		k.listed = true
	}
}

func (c *checker) alias(n keystore.Name, _ []string, value []byte) {
	row, err := parseAliasRow(value)
	if err != nil {
		c.reportf("%s: %v", n, err)
		return
	}
	id, _ := aliasOfRow(n)
	c.aliases[id] = row.target()
	k := c.keys[row.target()]
	switch {
	case k == nil:
		c.reportf("%s: it names key %s, which does not exist", n, row.target())
	case k.account != id.account:
		c.reportf("%s: it names key %s of account %s", n, row.target(), k.account)
	default:
		k.found++
	}
}

func (c *checker) mirror(n keystore.Name, parts []string, value []byte) {
	c.listedValue(n, value)
	id := api.KeyID([]byte(parts[0]))
	k := c.keys[id]
	if k == nil {
		c.reportf("%s: there is no such key", n)
		return
	}
	if target, ok := c.aliases[aliasID{k.account, parts[1]}]; !ok || target != id {
		c.reportf("%s: no such alias names the key", n)
		return
	}
	delete(c.aliases, aliasID{k.account, parts[1]})
}

func (c *checker) usage(n keystore.Name, parts []string, value []byte) {
	if _, err := parseUsageRow(value); err != nil {
		c.reportf("%s: %v", n, err)
	} else if c.keys[api.KeyID([]byte(parts[0]))] == nil {
		c.reportf("%s: there is no such key", n)
	}
}

func (c *checker) position(n keystore.Name, _ []string, value []byte) {
	if _, err := parsePositionRow(value); err != nil {
		c.reportf("%s: %v", n, err)
	}
}

// listedValue checks the value of a row whose name says it all.
func (c *checker) listedValue(n keystore.Name, value []byte) {
	if string(value) != string(listed) {
		c.reportf("%s: the row has an unknown format", n)
	}
}

// finish reports what was looked for and not found.
func (c *checker) finish() {
	for id, k := range c.keys {
		if k.entries > 0 && len(k.materials) == 0 && !k.wrong {
			c.reportf("key %s: it counts %d materials, and has no row of them", id, k.entries)
		}
		for i := range k.materials {
			if m := &k.materials[i]; m.here && !m.found {
				c.reportf("key %s: its material %x is missing", id, m.id)
			}
		}
		if !k.listed {
			c.reportf("key %s: it is not listed under its account %s", id, k.account)
		}
		if int(k.tags) != k.tagged {
			c.reportf("key %s: it counts %d tags, and has %d", id, k.tags, k.tagged)
		}
		if k.aliases != k.found {
			c.reportf("key %s: it counts %d aliases, and %d name it", id, k.aliases, k.found)
		}
	}
	c.finishDoomed()
	for id, target := range c.aliases {
		c.reportf("%s: it is not listed under key %s", id.rowName(), target)
	}
}
