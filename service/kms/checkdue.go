package kms

import (
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// What Check finds out of due work, of keys that are to be destroyed, and of those that were.

// doomed notes what the row of a key says of its end.
func (c *checker) doomed(n keystore.Name, id api.KeyID, row *keyRow) {
	if row.dying() && (row.Doom == nil || row.Deletion == 0) {
		c.reportf("%s: it is to be destroyed, and it is not known when", n)
	}
	for _, d := range row.due(id) {
		c.work[d] = true
	}
	if row.Doom != nil && row.Doom.Begun {
		c.dying[id] = true
	}
}

// due comes behind all keys.
func (c *checker) due(n keystore.Name, _ []string, value []byte) {
	c.listedValue(n, value)
	d, ok := parseDue(n)
	switch {
	case !ok:
		c.reportf("%s: no work is called so", n)
	case c.work[d]:
		delete(c.work, d)
	default:
		c.reportf("%s: the key does not wait for it, or there is no such key", n)
	}
}

// tombstone comes behind all keys.
func (c *checker) tombstone(n keystore.Name, parts []string, value []byte) {
	if len(parts) == 0 {
		var err error
		if c.unshredded, err = parseUnshredded(value); err != nil {
			c.reportf("%s: %v", n, err)
		}
		return
	}
	if shaped(parts, len(api.KeyID{}), 32) { // a material alone, whose key may be there
		if c.closed++; len(value) != 8 {
			c.reportf("%s: it has %d bytes, want 8", n, len(value))
		}
		return
	}
	if !shaped(parts, len(api.KeyID{}), -1) {
		c.reportf("%s: rows of this space have other names", n)
		return
	}
	id := api.KeyID([]byte(parts[0]))
	t, err := parseTombstone(value)
	switch {
	case err != nil:
		c.reportf("%s: %v", n, err)
	case t.Deleted == 0 && !c.dying[id]:
		c.reportf("%s: there is no such key whose destruction goes on", n)
	case t.Deleted != 0 && c.keys[id] != nil:
		c.reportf("%s: the key is still there", n)
	case t.Deleted != 0 && t.Shredded == 0:
		c.closed++
	}
	delete(c.dying, id)
}

// finishDoomed reports what was looked for and not found.
func (c *checker) finishDoomed() {
	for d := range c.work {
		c.reportf("key %s: its %s is missing", d.key, d.name())
	}
	for id := range c.dying {
		c.reportf("key %s: its destruction has begun, and it has no tombstone", id)
	}
	if c.closed != c.unshredded.n {
		c.reportf("%s: it counts %d keys and materials that are not shredded, and there are %d", unshreddedName(), c.unshredded.n, c.closed)
	}
}
