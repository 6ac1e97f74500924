package kms

import (
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/keystore"
)

// tagsRow is the row of a key's tags, FORMAT.md "Tags".
type tagsRow struct {
	Format uint8             `cbor:"0,keyasint"`
	Tags   map[string]string `cbor:"1,keyasint"`
}

const tagsFormat = 1

func tagsName(id api.KeyID) keystore.Name {
	return keystore.MakeName(keystore.SpaceKeyTags, string(id[:]))
}

// parseTagsRow reads a row of tags, of which there is at least one.
func parseTagsRow(b []byte) (map[string]string, error) {
	var r tagsRow
	if err := cbor.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("tags row: %w", err)
	}
	if r.Format != tagsFormat || len(r.Tags) == 0 || len(r.Tags) > api.MaxTags {
		return nil, fmt.Errorf("tags row has format %d and %d tags, want %d and 1 to %d", r.Format, len(r.Tags), tagsFormat, api.MaxTags)
	}
	return r.Tags, nil
}

// readTags returns the tags of a key that counts n of them, nil for none. Tags
// that are missing are damage, and not the key's absence: its error is not
// keystore.ErrNotFound.
func readTags(r getter, id api.KeyID, n uint16) (map[string]string, error) {
	if n == 0 {
		return nil, nil
	}
	b, err := r.Get(tagsName(id))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, fmt.Errorf("key %s counts %d tags, and has none", id, n)
	}
	if err != nil {
		return nil, err
	}
	tags, err := parseTagsRow(b)
	if err == nil && len(tags) != int(n) {
		err = fmt.Errorf("key %s counts %d tags, and has %d", id, n, len(tags))
	}
	return tags, err
}

// putTags writes the tags of a key; one without tags has no row.
func putTags(tx keystore.Tx, id api.KeyID, tags map[string]string) error {
	if len(tags) == 0 {
		return tx.Delete(tagsName(id))
	}
	b, err := cbor.Marshal(&tagsRow{Format: tagsFormat, Tags: tags})
	if err != nil {
		return err
	}
	return tx.Put(tagsName(id), b)
}
