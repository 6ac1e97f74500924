package kms

import (
	"testing"

	"github.com/keyrack/keyrack/api"
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
