package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// Imported material ends at its date by accepted time, whether or not due work has come to delete it by then: a key
// that needs it answers as one that waits for an import, from the first call on that finds its date over. The time is
// the accepted one also while the machine's clock is not believed: one that jumped ends no key and keeps none.

// accepted returns the time that imported material and import tokens end by.
func (s *Service) accepted() api.Time {
	now, _ := s.time.Accepted()
	return api.TimeOf(now)
}

// earliest returns when the first of some entries that are here expires, 0 if none does.
func (m materials) earliest(of func(*materialEntry) bool) (first api.Time) {
	for i := range m {
		if e := &m[i]; e.here() && e.ValidTo != 0 && of(e) && (first == 0 || e.ValidTo < first) {
			first = e.ValidTo
		}
	}
	return first
}

// expiry returns when the first material expires: that is a piece of due work.
func (m materials) expiry() api.Time {
	return m.earliest(func(*materialEntry) bool { return true })
}

// needed returns when the first material expires that the key is not used without: not that of one which waits for
// its rotation.
func (m materials) needed() api.Time { return m.earliest((*materialEntry).opens) }

// over reports whether the material's time is over.
func (e *materialEntry) over(now api.Time) bool { return e.ValidTo != 0 && e.ValidTo <= now }

// inTime returns k if no material that it needs is over, else what it is then. The accepted time is not asked for while
// the call's own, which is never behind it, says that there is time left. It allocates nothing for a key that is used.
func (s *Service) inTime(c *access.Call, k *key) *key {
	if k.ends == 0 || api.TimeOf(c.Now()) < k.ends {
		return k
	}
	now := s.accepted()
	if now < k.ends {
		return k
	}
	return s.without(k, now)
}

// without returns a snapshot of k, for one call, as it will be when due work has deleted what is over.
func (s *Service) without(k *key, now api.Time) *key {
	e := s.newKey(k.id, k.row, k.account)
	e.tags = k.tags
	if k.entry != nil {
		entry := *k.entry
		if entry.over(now) {
			entry.Import = kmsapi.PendingImport
		}
		e.entry = &entry
	}
	if keptStates&(1<<e.row.State) != 0 {
		e.row.State = kmsapi.StatePendingImport
	}
	return e
}
