package kms

import (
	"fmt"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
)

// expanded is a secret in the form that the standard library works with, on the Go
// heap. It lives as long as a message key and is then made anew from the material,
// which is checked first: a bit that flips in it does no harm for longer.
type expanded struct {
	as    any // what the spec's expand returned
	until time.Time
}

// asymmetric is what the secret of an asymmetric key is expanded to.
type asymmetric interface {
	publicKey() []byte          // DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)
	prove(can algorithms) error // tries something that it can do and that needs both halves
}

// expand returns what the current secret of an asymmetric key is expanded to, on a
// worker for what takes the processor's time.
func (s *Service) expand(c *access.Call, k *key) (any, error) {
	if err := c.Need(work.Compute); err != nil {
		return nil, err
	}
	kept := &s.expansions
	if k.row.Spec >= kmsapi.KeySpecMLDSA44 {
		kept = &s.lattices
	}
	as, err := kept.use(k.current, k, c.Now())
	if err != nil {
		return nil, s.damagedMaterial(k, err)
	}
	return as, nil
}

// use returns what m is expanded to for its key, made anew if there is nothing or its
// time is over. The result is shared: it is not to be changed.
func (e *expansions) use(m *material, k *key, now time.Time) (any, error) {
	if x := m.expanded.Load(); x != nil && now.Before(x.until) {
		m.hot.Store(true)
		return x.as, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if x := m.expanded.Load(); x != nil && now.Before(x.until) {
		return x.as, nil
	}
	if !m.intact(k.id) {
		return nil, errMaterialChanged
	}
	x := &expanded{until: now.Add(api.MessageKeyLife)}
	var err error
	securemem.Do(func() { x.as, err = k.expandSecret(m.secret.Bytes()) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMaterialChanged, err)
	}
	m.expanded.Store(x)
	e.keep(m)
	return x.as, nil
}

// expandSecret returns what a secret of the key is used as.
func (k *key) expandSecret(secret []byte) (any, error) {
	as, err := specs[k.row.Spec].expand(secret)
	if err != nil {
		return nil, err
	}
	switch k.row.Usage {
	case kmsapi.UsageEncryptDecrypt:
		return newDecrypter(as.(*signer)), nil
	case kmsapi.UsageKeyAgreement:
		return newAgreement(as.(*signer))
	}
	return as, nil
}

// expansions bounds how many materials are expanded. Safe for concurrent use.
type expansions struct{ ring[material, *material] }

func (m *material) counted() *bool { return &m.inRing }

func (m *material) used() bool { return m.expanded.Load() != nil && m.hot.Swap(false) }

func (m *material) evict() { m.expanded.Store(nil) }
