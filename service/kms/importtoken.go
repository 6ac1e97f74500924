package kms

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// importRow says which import token of a key is good: FORMAT.md, "Import". There is no
// such row of a key that no token is good for.
type importRow struct {
	Format   uint8  `cbor:"0,keyasint"`
	Epoch    []byte `cbor:"1,keyasint"`           // 16 random bytes
	Failures uint8  `cbor:"2,keyasint,omitempty"` // tries with the token that came to nothing
}

const (
	importFormat = 1
	epochSize    = 16
)

func importName(id api.KeyID) keystore.Name {
	return keystore.MakeName(keystore.SpaceKeyImport, string(id[:]))
}

// parseImportRow reads the row of a token that is good.
func parseImportRow(b []byte) (r importRow, err error) {
	if err := cbor.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("import row: %w", err)
	}
	if r.Format != importFormat || len(r.Epoch) != epochSize || r.Failures >= api.MaxImportFailures {
		return r, fmt.Errorf("import row has format %d, an epoch of %d bytes and %d failures, which no key has", r.Format, len(r.Epoch), r.Failures)
	}
	return r, nil
}

// readImport returns the row of a key, of epoch nil if it has none.
func readImport(from getter, id api.KeyID) (r importRow, err error) {
	b, err := from.Get(importName(id))
	if errors.Is(err, keystore.ErrNotFound) {
		return importRow{}, nil
	}
	if err != nil {
		return r, err
	}
	return parseImportRow(b)
}

func putImport(tx keystore.Tx, id api.KeyID, r importRow) error {
	r.Format = importFormat
	b, err := cbor.Marshal(&r)
	if err != nil {
		return err
	}
	return tx.Put(importName(id), b)
}

// newEpoch returns the row of a token that is about to be made. An epoch is random, and not
// a number that is counted up, so that none comes again when its row has gone.
func newEpoch() importRow {
	r := importRow{Epoch: make([]byte, epochSize)}
	rand.Read(r.Epoch)
	return r
}

// importTerms is what an import token holds: how material is to be encrypted, until when,
// and the private half of the key to encrypt it under, which nothing else holds.
type importTerms struct {
	algorithm kmsapi.WrappingAlgorithm
	spec      kmsapi.WrappingKeySpec
	until     api.Time
	primes    *securemem.Buffer // as in the secret of an RSA key
	epoch     []byte
}

// termsHead is how many bytes stand before the primes: algorithm 1 ‖ spec 1 ‖ until 8.
const termsHead = 10

// importContext is what a token is bound to and does not hold: account 12 ‖ key id 16 ‖ epoch 16.
func importContext(k *key, epoch []byte) []byte {
	return slices.Concat(k.account[:], k.id[:], epoch)
}

// token seals the terms for k.
func (t *importTerms) token(importKey []byte, k *key) ([]byte, error) {
	plaintext, err := securemem.New(termsHead + t.primes.Len())
	if err != nil {
		return nil, err
	}
	defer plaintext.Free()
	b := plaintext.Bytes()
	b[0], b[1] = byte(t.algorithm), byte(t.spec)
	binary.BigEndian.PutUint64(b[2:], uint64(t.until))
	copy(b[termsHead:], t.primes.Bytes())
	return seal.SealToken(nil, importKey, seal.LabelImportPRK, importContext(k, t.epoch), b)
}

// errImportToken is everything that can be wrong with an import token but its age.
var errImportToken = &api.Error{
	Kind:    api.KindInvalidImportToken,
	Message: "the import token is damaged or of another key, or was used up: it is good for one import, for 8 tries, and until new parameters are asked for; call GetParametersForImport",
}

// openImportToken returns what a token of k says, if it is good for another try now. The
// caller frees its primes. It returns InvalidImportToken or ExpiredImportToken.
func (s *Service) openImportToken(c *access.Call, k *key, token []byte) (*importTerms, error) {
	var row importRow
	err := s.store.View(c.Context(), func(r keystore.Reader) (err error) {
		row, err = readImport(r, k.id)
		return err
	})
	if err != nil {
		return nil, api.Internal(fmt.Errorf("import of key %s: %w", k.id, err))
	}
	t, err := parseImportToken(s.importKey.Bytes(), k, row.Epoch, token)
	if errors.Is(err, securemem.ErrFull) {
		return nil, s.noMemory(err)
	}
	if err != nil {
		return nil, err
	}
	if t.until <= s.accepted() {
		t.primes.Free()
		return nil, api.Errorf(api.KindExpiredImportToken, "the import token was good until %s: call GetParametersForImport for a new one", t.until.Time().UTC().Format(time.RFC3339))
	}
	return t, nil
}

// parseImportToken opens a token of an epoch; nil is none. It returns errImportToken, or
// securemem's error.
func parseImportToken(importKey []byte, k *key, epoch, token []byte) (*importTerms, error) {
	n := len(token) - seal.TokenOverhead - termsHead
	if len(epoch) != epochSize || n < 1 {
		return nil, errImportToken
	}
	opened, err := securemem.New(termsHead + n)
	if err != nil {
		return nil, err
	}
	defer opened.Free()
	b, err := seal.OpenToken(opened.Bytes()[:0], importKey, seal.LabelImportPRK, importContext(k, epoch), token)
	if err != nil {
		return nil, errImportToken
	}
	t := &importTerms{
		algorithm: kmsapi.WrappingAlgorithm(b[0]), spec: kmsapi.WrappingKeySpec(b[1]),
		until: api.Time(binary.BigEndian.Uint64(b[2:])), epoch: epoch,
	}
	t.primes, err = securemem.From(b[termsHead:])
	return t, err
}
