package main

import (
	"bytes"

	"github.com/keyrack/keyrack/audit"
)

// keptRecords are the newest records of those that were added, in order.
type keptRecords struct {
	all   []keptRecord
	bytes int
	cut   bool // older ones were dropped because there was no room, not because nobody wants them
}

// keptRecord is an encoded record and its number.
type keptRecord struct {
	position audit.Position
	encoded  []byte
}

// add keeps a copy of a record, the newest so far, and of those before it no more
// than there is room for: most records, and mostKeptBytes bytes.
func (k *keptRecords) add(p audit.Position, encoded []byte, most int) {
	k.all = append(k.all, keptRecord{p, bytes.Clone(encoded)})
	k.bytes += len(encoded)
	for len(k.all) > most || k.bytes > mostKeptBytes {
		k.cut = k.cut || most == mostKept || len(k.all) <= most
		k.bytes -= len(k.all[0].encoded)
		k.all[0].encoded = nil
		k.all = k.all[1:]
	}
}

// last takes the newest one out.
func (k *keptRecords) last() (p audit.Position, encoded []byte, ok bool) {
	n := len(k.all) - 1
	if n < 0 {
		k.all = nil
		return 0, nil, false
	}
	r := k.all[n]
	k.all, k.bytes = k.all[:n], k.bytes-len(r.encoded)
	return r.position, r.encoded, true
}
