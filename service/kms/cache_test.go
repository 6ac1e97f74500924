package kms_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/kms"
)

// TestTheCacheIsBounded: it keeps no more than it may, and what is used stays
// longer than what is not.
func TestTheCacheIsBounded(t *testing.T) {
	t.Parallel()
	const most, many = 160, 4000
	c := kms.NewAliases(most)
	c.Put("used", 1)
	kept := 0
	for i := range many {
		c.Put(fmt.Sprint(i), 1)
		if !c.Has("used") {
			t.Fatalf("what is used all the time is gone after %d others", i)
		}
	}
	for i := range many {
		if c.Has(fmt.Sprint(i)) {
			kept++
		}
	}
	if kept == 0 || kept >= most {
		t.Errorf("%d and one in use are kept, want some, and at most %d", kept, most)
	}
	for i := range 10 * many { // what was dropped and not read again takes no place of its own for ever
		c.Put(fmt.Sprint(i), 1)
		c.Drop(fmt.Sprint(i), 1)
	}
	if c.Put("new", 1); !c.Has("new") {
		t.Error("a full cache takes nothing new")
	}
}

// TestTheCacheRefusesOldRows: read before a change that was delivered, or when
// changes are no longer heard of.
func TestTheCacheRefusesOldRows(t *testing.T) {
	t.Parallel()
	c := kms.NewAliases(160)
	c.Put("a", 5)
	for _, step := range []struct {
		changed, read keystore.Revision
		kept          bool
	}{{7, 6, false}, {7, 7, true}, {3, 6, false}, {3, 8, true}} { // a change of revision 3 leaves that of 7 the newest
		c.Drop("a", step.changed)
		if c.Has("a") {
			t.Errorf("a change of revision %d leaves the row", step.changed)
		}
		if c.Put("a", step.read); c.Has("a") != step.kept {
			t.Errorf("a row of revision %d, after a change of %d, is kept: %t, want %t", step.read, step.changed, !step.kept, step.kept)
		}
	}
	c.Put("b", 9)
	c.Close()
	if c.Put("c", 9); c.Has("b") || c.Has("c") {
		t.Error("a closed cache keeps rows")
	}
}

// TestTheSmallestCache: where hardly any memory may be locked, each part still
// keeps one.
func TestTheSmallestCache(t *testing.T) {
	t.Parallel()
	c := kms.NewAliases(1)
	for i := range 100 {
		if c.Put(fmt.Sprint(i), 1); !c.Has(fmt.Sprint(i)) {
			t.Fatalf("number %d is not kept", i)
		}
	}
}

// TestLockedMemoryIsBoundedByBytes: a key of RSA takes as much as sixteen symmetric ones,
// and the bound holds whatever is read, changed and read again.
func TestLockedMemoryIsBoundedByBytes(t *testing.T) {
	t.Parallel()
	const each = 1024 // bytes of one of the cache's 16 parts
	c := kms.NewKeys(16*64, 16*each)
	lengths, ids := []int{32, 512, 48, 256, 384, 66}, make([]api.KeyID, 3000)
	for i := range ids {
		binary.BigEndian.PutUint32(ids[i][:], uint32(i))
		ids[i][15] = byte(i / 2) // which part it is in
	}
	taken := func() (bytes, keys int) {
		for i, id := range ids {
			if c.Has(id) {
				bytes += securemem.Taken(lengths[i%len(lengths)])
				keys++
			}
		}
		return bytes, keys
	}
	for round := range 2 {
		for i, id := range ids {
			c.Put(t, id, lengths[i%len(lengths)], 1)
			if !c.Has(id) {
				t.Fatalf("round %d: number %d is not kept", round, i)
			}
			if i%7 == 0 {
				c.Drop(id, 1)
			}
		}
		if bytes, keys := taken(); bytes > 16*each || bytes < 8*each {
			t.Errorf("round %d: %d keys take %d bytes, want some, and at most %d", round, keys, bytes, 16*each)
		}
	}
	for i, id := range ids[:100] { // again and again: a key is counted once
		for range 50 {
			c.Put(t, id, lengths[i%len(lengths)], 1)
		}
	}
	if bytes, _ := taken(); bytes > 16*each || bytes < 4*each {
		t.Errorf("they take %d bytes, want some, and at most %d", bytes, 16*each)
	}
	tiny := kms.NewKeys(16, 16)
	for _, id := range ids[:50] {
		if tiny.Put(t, id, 512, 1); !tiny.Has(id) {
			t.Error("where there is no room, not even one is kept")
		}
	}
}
