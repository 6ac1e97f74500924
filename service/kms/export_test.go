package kms

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// FlipMaterialBit is a failpoint: it flips one bit of the cached material of a
// key, as a memory error would.
func FlipMaterialBit(tb testing.TB, s *Service, id api.KeyID, bit int) {
	tb.Helper()
	k := s.keys.get(id)
	if k == nil {
		tb.Fatalf("key %s is not cached", id)
	}
	k.current.secret.Bytes()[bit/8] ^= 1 << (bit % 8)
}

// FlipPastBit flips one bit of the cached material that a key had first.
func FlipPastBit(tb testing.TB, s *Service, id api.KeyID, bit int) {
	tb.Helper()
	m := s.keys.get(id).past[0].is.Load()
	if m == nil {
		tb.Fatalf("the first material of key %s is not cached", id)
	}
	m.secret.Bytes()[bit/8] ^= 1 << (bit % 8)
}

// Pasts returns how many materials of a cached key that are not current are in memory.
func Pasts(s *Service, id api.KeyID) (n int) {
	k := s.keys.get(id)
	for i := range k.past {
		if k.past[i].is.Load() != nil {
			n++
		}
	}
	return n
}

// BoundPasts lets a service keep at most so many materials that are not current in memory.
func BoundPasts(s *Service, most int) { s.pasts.most = most }

// ForgetKeys lets go of about half of the keys, and of all materials that are not current, as
// when the locked memory is full.
func ForgetKeys(s *Service) {
	s.keys.shed()
	s.pasts.shed()
}

// ForgetMessageKey makes the next Encrypt of a cached key draw a new one.
func ForgetMessageKey(s *Service, id api.KeyID) { s.keys.get(id).current.sealing.Store(nil) }

// OpenKeys returns how many message keys of old messages a cached key keeps.
func OpenKeys(s *Service, id api.KeyID) int {
	o := s.keys.get(id).current.kept
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.young) + len(o.old)
}

// Rows returns the store that a service keeps its rows in.
func Rows(s *Service) keystore.Store { return s.store }

// SetState puts a key into a state that no operation brings it to.
func SetState(tb testing.TB, s *Service, id api.KeyID, state kmsapi.KeyState) {
	tb.Helper()
	edit(tb, s, id, func(r *keyRow) { r.State = state })
}

// SetMulti writes into a key's row alone that it is a multi-Region key, or not.
func SetMulti(tb testing.TB, s *Service, id api.KeyID, multi bool) {
	tb.Helper()
	edit(tb, s, id, func(r *keyRow) { r.Multi = multi })
}

// SetOrigin writes another origin into a key's row alone.
func SetOrigin(tb testing.TB, s *Service, id api.KeyID, origin kmsapi.KeyOrigin) {
	tb.Helper()
	edit(tb, s, id, func(r *keyRow) { r.Origin = origin })
}

// SetDue lets a key be rotated at a time, and every so many days from then on.
func SetDue(tb testing.TB, s *Service, id api.KeyID, days uint16, at api.Time) {
	tb.Helper()
	if err := editMaterials(tb, s, id, func(tx keystore.Tx, r *keyRow) error {
		r.RotateDays, r.RotateNext = days, at
		return r.resumeRotation(tx, id)
	}); err != nil {
		tb.Fatal(err)
	}
}

// RotateTo rotates a key as RotateKeyOnDemand does, with secrets that are drawn in this order.
func RotateTo(tb testing.TB, s *Service, id api.KeyID, secrets ...[]byte) error {
	tb.Helper()
	k, err := s.load(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return s.rotate(tb.Context(), k, func(kmsapi.KeySpec) (*securemem.Buffer, error) {
		next := secrets[0]
		secrets = secrets[1:]
		return securemem.From(next)
	}, func(secret []byte) (done rotated, err error) {
		err = editMaterials(tb, s, id, func(tx keystore.Tx, r *keyRow) (err error) {
			done, err = rotateIn(tx, k, r, secret, api.TimeOf(time.Now()), kmsapi.RotationOnDemand)
			return err
		})
		return done, err
	}, func(back func(keystore.Tx, *keyRow) error) error { return editMaterials(tb, s, id, back) })
}

// SetKind writes another spec and usage into a key's row alone.
func SetKind(tb testing.TB, s *Service, id api.KeyID, spec kmsapi.KeySpec, usage kmsapi.KeyUsage) {
	tb.Helper()
	edit(tb, s, id, func(r *keyRow) { r.Spec, r.Usage = spec, usage })
}

// Mac computes a code as a key with this secret does, of whatever length it is.
func Mac(tb testing.TB, spec kmsapi.KeySpec, secret, message []byte) []byte {
	tb.Helper()
	as, err := specOf(spec).expand(secret)
	if err != nil {
		tb.Fatal(err)
	}
	h := as.(hash.Hash)
	h.Write(message)
	return h.Sum(nil)
}

// BoundExpansions lets a service keep at most so many keys expanded.
func BoundExpansions(s *Service, most int) { s.expansions.most = most }

// Expanded returns which of the cached keys are expanded.
func Expanded(s *Service, ids ...api.KeyID) (n int) {
	for _, id := range ids {
		if s.keys.get(id).current.expanded.Load() != nil {
			n++
		}
	}
	return n
}

// SwapPrivateKey is a failpoint: the expanded key of a cached key signs with another
// private key from then on, as one does in which a bit flipped.
func SwapPrivateKey(tb testing.TB, s *Service, id api.KeyID) {
	tb.Helper()
	k := s.keys.get(id)
	row := specOf(k.row.Spec)
	secret := make([]byte, row.secret)
	if err := row.draw(secret); err != nil {
		tb.Fatal(err)
	}
	other, err := k.expandSecret(secret)
	if err != nil {
		tb.Fatal(err)
	}
	x := k.current.expanded.Load()
	var swapped any
	switch as := x.as.(type) {
	case *signer:
		swapped = &signer{other.(*signer).private, as.public, as.spki}
	case *decrypter:
		swapped = &decrypter{other.(*decrypter).private, as.public, as.spki}
	}
	k.current.expanded.Store(&expanded{swapped, x.until})
}

// SwapAgreement is SwapPrivateKey for one of the two copies that a key agrees with.
func SwapAgreement(tb testing.TB, s *Service, id api.KeyID, second bool) {
	tb.Helper()
	k := s.keys.get(id)
	x := k.current.expanded.Load()
	swapped := *x.as.(*agreement)
	other, err := swapped.first.Curve().GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	if second {
		swapped.second = other
	} else {
		swapped.first = other
	}
	k.current.expanded.Store(&expanded{&swapped, x.until})
}

// BendPublicKey is a failpoint: a bit flips in the public half of a cached RSA key.
func BendPublicKey(s *Service, id api.KeyID) {
	n := s.keys.get(id).current.expanded.Load().as.(*decrypter).public.N
	n.SetBit(n, 77, n.Bit(77)^1)
}

// Has reports whether there are keys of a spec.
func Has(spec kmsapi.KeySpec) bool { return specOf(spec) != nil }

// Draw returns the row of a new material of a spec.
func Draw(tb testing.TB, spec kmsapi.KeySpec) []byte {
	tb.Helper()
	row := make([]byte, 1+specs[spec].secret)
	row[0] = byte(spec)
	if err := specs[spec].draw(row[1:]); err != nil {
		tb.Fatal(err)
	}
	return row
}

// CheckMaterial says what is wrong with the form of a row of material.
func CheckMaterial(spec kmsapi.KeySpec, row []byte) error { return checkMaterialRow(row, spec) }

// Expand says what is wrong with a secret of a spec.
func Expand(spec kmsapi.KeySpec, secret []byte) error {
	if specs[spec].expand == nil {
		return nil
	}
	_, err := specs[spec].expand(secret)
	return err
}

// TrySecret uses a secret of an asymmetric key as each usage does, and says why what it
// makes does not hold.
func TrySecret(spec kmsapi.KeySpec, secret []byte) error {
	for usage, can := range specs[spec].offers {
		k := &key{row: keyRow{Spec: spec, Usage: usage}}
		if !k.asymmetric() {
			return nil
		}
		as, err := k.expandSecret(secret)
		if err != nil {
			return err
		}
		if err := as.(asymmetric).prove(can); err != nil {
			return err
		}
	}
	return nil
}

// SetCount writes how many keys an account has.
func SetCount(tb testing.TB, s *Service, a api.AccountID, n uint64) {
	tb.Helper()
	if _, err := s.store.Update(tb.Context(), func(tx keystore.Tx) error {
		return tx.Put(countName(a), binary.BigEndian.AppendUint64(nil, n))
	}); err != nil {
		tb.Fatal(err)
	}
}

// Secret returns the secret in a key's row of material.
func Secret(tb testing.TB, s *Service, id api.KeyID) (secret []byte) {
	tb.Helper()
	err := s.store.View(tb.Context(), func(r keystore.Reader) error {
		k, err := s.readKey(r, id)
		if err == nil {
			secret = append(secret, k.current.secret.Bytes()...)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return secret
}

// AddMaterial gives a key a material in a state, as imports and rotations do.
func AddMaterial(tb testing.TB, s *Service, id api.KeyID, state kmsapi.KeyMaterialState, secret []byte) error {
	tb.Helper()
	material := materialID(id, secret)
	return editMaterials(tb, s, id, func(tx keystore.Tx, r *keyRow) error {
		return addMaterial(tx, id, r, materialEntry{ID: material[:], State: state, Import: kmsapi.Imported}, secret)
	})
}

// FillMaterials gives a key as many materials as it may have, of which it waits for all but one.
func FillMaterials(tb testing.TB, s *Service, id api.KeyID) {
	tb.Helper()
	err := editMaterials(tb, s, id, func(tx keystore.Tx, r *keyRow) error {
		m, err := materialsOf(tx, id, r)
		for i := len(m); err == nil && i < api.MaxMaterials; i++ {
			name := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
			m = append(m, materialEntry{ID: name[:], State: kmsapi.MaterialNonCurrent, Import: kmsapi.PendingImport})
		}
		return errors.Join(err, putMaterials(tx, id, r, m))
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// RemoveMaterial takes the secret of a material from a key.
func RemoveMaterial(tb testing.TB, s *Service, id api.KeyID, material string) {
	tb.Helper()
	if err := editMaterials(tb, s, id, func(tx keystore.Tx, r *keyRow) error {
		return removeMaterial(tx, id, r, []byte(material), api.TimeOf(time.Now()))
	}); err != nil {
		tb.Fatal(err)
	}
}

// RestoreMaterial gives a key the secret of a material back.
func RestoreMaterial(tb testing.TB, s *Service, id api.KeyID, material string, secret []byte) error {
	tb.Helper()
	return editMaterials(tb, s, id, func(tx keystore.Tx, r *keyRow) error {
		return restoreMaterial(tx, id, r, []byte(material), secret, func(e *materialEntry) { e.Description = "again" })
	})
}

func editMaterials(tb testing.TB, s *Service, id api.KeyID, change func(keystore.Tx, *keyRow) error) error {
	tb.Helper()
	_, err := s.store.Update(tb.Context(), func(tx keystore.Tx) error {
		return s.changeKey(tx, &key{id: id}, func(r *keyRow) error { return change(tx, r) })
	})
	return err
}

// MaterialID returns the KeyMaterialId of a secret.
func MaterialID(id api.KeyID, secret []byte) [32]byte { return materialID(id, secret) }

// ErrShortTaken is what AddMaterial returns for a short id that the key knows already.
var ErrShortTaken = errShortTaken

// CountMaterials writes into a key's row how many materials it has, and which is current.
func CountMaterials(tb testing.TB, s *Service, id api.KeyID, n uint16, current string) {
	tb.Helper()
	edit(tb, s, id, func(r *keyRow) { r.Materials, r.Current = n, []byte(current) })
}

// SetAliases makes a key count another number of aliases than it has.
func SetAliases(tb testing.TB, s *Service, id api.KeyID, n uint16) {
	tb.Helper()
	edit(tb, s, id, func(r *keyRow) { r.Aliases = n })
}

// SetTags writes the row of a key's tags alone, or removes it.
func SetTags(tb testing.TB, s *Service, id api.KeyID, tags map[string]string) {
	tb.Helper()
	if _, err := s.store.Update(tb.Context(), func(tx keystore.Tx) error { return putTags(tx, id, tags) }); err != nil {
		tb.Fatal(err)
	}
}

func edit(tb testing.TB, s *Service, id api.KeyID, change func(*keyRow)) {
	tb.Helper()
	k := &key{id: id}
	if _, err := s.store.Update(tb.Context(), func(tx keystore.Tx) error {
		return s.changeKey(tx, k, func(r *keyRow) error { change(r); return nil })
	}); err != nil {
		tb.Fatal(err)
	}
}

// ForgetAlias makes the next use of an alias read its row.
func ForgetAlias(s *Service, account api.AccountID, name string) {
	id := aliasID{account, name}
	shard := s.aliases.shard(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.kept[id] = nil
}

// PointAlias writes the row of an alias alone, which names a key from then on,
// or is gone if the key is none.
func PointAlias(tb testing.TB, s *Service, account api.AccountID, name string, to api.KeyID) {
	tb.Helper()
	id := aliasID{account, name}
	if _, err := s.store.Update(tb.Context(), func(tx keystore.Tx) error {
		if to == (api.KeyID{}) {
			return tx.Delete(id.rowName())
		}
		row, err := cbor.Marshal(&aliasRow{Format: aliasFormat, Target: to[:]})
		if err != nil {
			return err
		}
		return tx.Put(id.rowName(), row)
	}); err != nil {
		tb.Fatal(err)
	}
}

// Aliases is a cache of targets for tests of its bounds.
type Aliases struct{ *aliases }

// NewAliases returns a cache for at most so many.
func NewAliases(most int) Aliases { return Aliases{newAliases(most)} }

// Put keeps an alias that was read at a revision.
func (c Aliases) Put(name string, seen keystore.Revision) {
	c.put(&alias{id: aliasID{name: name}}, seen)
}

// Has reports whether an alias is kept, and uses it.
func (c Aliases) Has(name string) bool { return c.get(api.AccountID{}, []byte(name)) != nil }

// Drop forgets an alias because of a change at a revision.
func (c Aliases) Drop(name string, at keystore.Revision) { c.drop(aliasID{name: name}, at) }

// Close ends the cache.
func (c Aliases) Close() { c.close() }

// Keys is a cache of keys for tests of its bounds.
type Keys struct{ *cache }

// NewKeys returns a cache for at most so many keys, in so many bytes of locked memory.
func NewKeys(most, room int) Keys { return Keys{newCache(most, room)} }

// Put keeps a key whose secret has n bytes, read at a revision.
func (c Keys) Put(tb testing.TB, id api.KeyID, n int, seen keystore.Revision) {
	tb.Helper()
	secret, err := securemem.New(n)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(secret.Free)
	c.put(&key{id: id, current: &material{secret: secret}}, seen)
}

// Has reports whether a key is kept, without using it.
func (c Keys) Has(id api.KeyID) bool { return c.shard(id).kept[id] != nil }

// Drop forgets a key because of a change at a revision.
func (c Keys) Drop(id api.KeyID, at keystore.Revision) { c.drop(id, at) }

// ReadsBack says why the DER of two halves is not that of a pair with this secret.
func ReadsBack(private, public []byte, kind kmsapi.DataKeyPairSpec, secret []byte) error {
	return readsBack(&dataPair{private: private, public: public}, pairSpecs[kind], secret)
}

// ParseCount reads the row that counts an account's keys.
func ParseCount(b []byte) (uint64, error) { return parseCount(b) }

// DuePasses returns how often the runner has looked at what is due.
func DuePasses(s *Service) int {
	s.due.mu.Lock()
	defer s.due.mu.Unlock()
	return s.due.passes
}

// WakeDue lets the runner look at once.
func WakeDue(s *Service) { s.due.wake() }

// PutDue writes a piece of due work alone.
func PutDue(tb testing.TB, s *Service, at time.Time, kind uint8, id api.KeyID) {
	tb.Helper()
	if _, err := s.store.Update(tb.Context(), func(tx keystore.Tx) error { return putDue(tx, dueItem{api.TimeOf(at), dueKind(kind), id}) }); err != nil {
		tb.Fatal(err)
	}
}

// ReadMaterials reads a row of materials and writes it again.
func ReadMaterials(b []byte) ([]byte, error) {
	m, err := parseMaterialsRow(b)
	if err != nil {
		return nil, err
	}
	return cbor.Marshal(&materialsRow{materialsFormat, m})
}

// Materials returns a row of as many materials of every state as there are ids.
func Materials(tb testing.TB, ids ...[]byte) []byte {
	tb.Helper()
	r := materialsRow{Format: materialsFormat}
	for i, id := range ids {
		state := []kmsapi.KeyMaterialState{kmsapi.MaterialCurrent, kmsapi.MaterialPendingRotation, kmsapi.MaterialNonCurrent}[min(i, 2)]
		r.Entries = append(r.Entries, materialEntry{ID: id, State: state, Since: 1, Rotated: 2, Rotation: kmsapi.RotationOnDemand, Description: "d", ValidTo: 3, Import: kmsapi.Imported})
	}
	b, err := cbor.Marshal(&r)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
