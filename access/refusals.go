package access

import (
	"sync"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
)

// refusals keeps a caller who is refused over and over from filling the log:
// beyond api.RefusalsPerSecond a second, what one caller is refused of one
// operation for one reason becomes one record a second with a count.
//
// All who are unknown are one caller here, because a stranger can come with a
// new key each time. So the map is no larger than principals, operations and
// kinds of refusal allow.
type refusals struct {
	mu   sync.Mutex
	seen map[refusalKey]*refusal // guarded by mu; an entry goes when a second has passed without it
}

type refusalKey struct {
	who  string // ARN; "" for everybody unknown
	op   uint16 // 0 for none
	kind api.Kind
	via  string
}

// refusal counts what befell one key.
type refusal struct {
	key    refusalKey
	second int64        // of the newest
	count  int          // in that second
	rec    audit.Record // of those beyond the limit and not recorded yet, rec.Count of them; owns its memory
}

// refused reports whether kind means that nothing was done for the caller.
func refused(k api.Kind) bool {
	switch k {
	case api.KindAccessDenied, api.KindValidation, api.KindSerialization, api.KindUnknownOperation,
		api.KindThrottling, api.KindUnrecognizedClient, api.KindNotFound, api.KindRequestTooLarge,
		api.KindRequestTimeout, api.KindUnavailable:
		return true
	}
	return false
}

// fold reports whether the call's refusal is counted here instead of being
// recorded by itself.
func (r *refusals) fold(c *Call, e *api.Error) bool {
	if !refused(e.Kind) {
		return false
	}
	key := refusalKey{kind: e.Kind, via: c.via}
	if c.op != nil {
		key.op = c.op.Number
	}
	if c.who != nil {
		key.who = c.who.ARN
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.seen[key]
	if f == nil {
		if r.seen == nil {
			r.seen = map[refusalKey]*refusal{}
		}
		f = &refusal{key: key}
		r.seen[key] = f
	}
	if now := c.session.now.Unix(); now > f.second {
		f.second, f.count = now, 0
	}
	if f.count++; f.count <= api.RefusalsPerSecond {
		return false
	}
	f.add(c, e)
	return true
}

// add counts one more refusal. The record names the first; of who and what it
// says only that in which all agree.
func (f *refusal) add(c *Call, e *api.Error) {
	if f.rec.Count == 0 {
		c.describe(&f.rec, e)
		f.rec.Request, f.rec.Response = nil, nil // they alias the session's memory
		f.rec.Count = 1
		return
	}
	f.merge(&audit.Record{Source: c.session.source, Credential: c.session.who.Hash(), Resource: c.resource, Reason: e.Reason, Count: 1})
}

// merge adds other's count and leaves out what does not hold for both.
func (f *refusal) merge(other *audit.Record) {
	r := &f.rec
	r.Count += other.Count
	if r.Source != other.Source {
		r.Source = ""
	}
	if r.Credential != other.Credential {
		r.Credential = [32]byte{}
	}
	if r.Resource != other.Resource {
		r.Resource = ""
	}
	if r.Reason != other.Reason {
		r.Reason = ""
	}
}

// take returns the records that were begun before a second, or all of them, and
// forgets who has been quiet since.
func (r *refusals) take(second int64, all bool) (over []*refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, f := range r.seen {
		if f.rec.Count > 0 && (all || f.rec.Time < second*1e6) {
			over = append(over, &refusal{key: key, rec: f.rec})
			f.rec = audit.Record{}
		}
		if f.rec.Count == 0 && (all || f.second < second) {
			delete(r.seen, key)
		}
	}
	return over
}

// restore brings back what was taken; if the same happened again meanwhile, one
// record counts both.
func (r *refusals) restore(over []*refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range over {
		now := r.seen[f.key]
		switch {
		case now == nil:
			r.seen[f.key] = f
		case now.rec.Count == 0:
			now.rec = f.rec
		default:
			f.merge(&now.rec)
			now.rec = f.rec
		}
	}
}
