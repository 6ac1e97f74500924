package kms

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// pastMaterial is the place for a material of a key's snapshot that is not current
// any more. It is empty until a ciphertext asks for the material, and again where
// others needed the memory; it goes with the snapshot.
type pastMaterial struct {
	id     []byte // KeyMaterialId
	is     atomic.Pointer[material]
	hot    atomic.Bool // used since the ring's hand last passed
	inRing bool        // of pasts, guarded by its mu
}

func (p *pastMaterial) counted() *bool { return &p.inRing }

func (p *pastMaterial) used() bool { return p.is.Load() != nil && p.hot.Swap(false) }

func (p *pastMaterial) evict() { p.is.Store(nil) }

// pasts bounds how many materials that are not current are in locked memory.
type pasts = ring[pastMaterial, *pastMaterial]

// pastOf returns places for the entries that once were current.
func pastOf(m materials) (all []pastMaterial) {
	for i := range m {
		if e := &m[i]; e.State == kmsapi.MaterialNonCurrent {
			all = append(all, pastMaterial{id: e.ID})
		}
	}
	return all
}

// material returns the material of k with a short id. A worker reads what is not
// current; that there is none is the ciphertext's fault.
func (s *Service) material(c *access.Call, k *key, short [4]byte) (*material, error) {
	if k.current.short() == short {
		return k.current, nil
	}
	for i := range k.past {
		if p := &k.past[i]; [4]byte(p.id) == short {
			return s.pastMaterial(c, k, p)
		}
	}
	return nil, errInvalidCiphertext
}

// pastMaterial returns the material of a place. What the store has goes there only once it gave its id, and one
// message key twice: else the error says that it is damaged, and the next call reads it anew.
func (s *Service) pastMaterial(c *access.Call, k *key, p *pastMaterial) (*material, error) {
	if m := p.is.Load(); m != nil {
		p.hot.Store(true)
		return m, nil
	}
	if err := c.Need(work.Store); err != nil {
		return nil, err
	}
	m, err := s.loadMaterial(c.Context(), k, p.id)
	if err != nil {
		return nil, err
	}
	if _, err := m.draw(k.id, time.Time{}); err != nil { // as new material is proved
		return nil, s.damagedMaterial(k, err)
	}
	p.is.Store(m)
	s.pasts.keep(p)
	return m, nil
}

// loadMaterial reads a material from the store into locked memory. One that is no
// longer there was removed after the snapshot: the key's row says how the key is now.
func (s *Service) loadMaterial(ctx context.Context, k *key, id []byte) (m *material, err error) {
	err = s.store.View(ctx, func(r keystore.Reader) (err error) {
		if m, err = s.readMaterial(r, k, id); errors.Is(err, keystore.ErrNotFound) {
			err = s.removed(r, k, id)
		}
		return err
	})
	var answer *api.Error
	switch {
	case err == nil, errors.As(err, &answer):
		return m, err
	case errors.Is(err, securemem.ErrFull):
		return nil, s.noMemory(err)
	}
	return nil, api.Internal(fmt.Errorf("load material of key %s: %w", k.id, err))
}

// removed answers for a material that the snapshot k has and the store has not.
func (s *Service) removed(r keystore.Reader, k *key, id []byte) error {
	row, _, err := s.rowOf(r, k)
	if err != nil {
		return err
	}
	if err := usableStates.refuse(k.arn, row.State); err != nil {
		return err
	}
	return fmt.Errorf("material %x: %w: there is none", id, keystore.ErrDamaged)
}

// expire lets go of message keys, and of expanded secrets, whose life is over.
func (k *key) expire(now time.Time) {
	if k.current != nil {
		k.current.expire(now)
	}
	for i := range k.past {
		if m := k.past[i].is.Load(); m != nil {
			m.expire(now)
		}
	}
}
