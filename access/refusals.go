package access

import (
	"sync"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
)

// refusals keeps a caller who is refused over and over from filling the log:
// beyond api.RefusalsPerSecond a second, what one caller is refused of one
// operation for one reason becomes one record a second with a count.
type refusals struct {
	mu   sync.Mutex
	seen map[refusalKey]*refusal // guarded by mu; emptied every second
	size int
}

type refusalKey struct {
	who  string // ARN, or the credential of somebody unknown
	op   uint16
	kind api.Kind
}

type refusal struct {
	second int64
	count  int
	folded uint32
	last   audit.Record // owns its memory
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
func (r *refusals) fold(c *Call, kind api.Kind) bool {
	if !refused(kind) {
		return false
	}
	key := refusalKey{kind: kind}
	if c.op != nil {
		key.op = c.op.Number
	}
	if c.who != nil {
		key.who = c.who.ARN
	} else {
		hash := c.session.who.Hash()
		key.who = string(hash[:])
	}
	second := c.session.now.Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[refusalKey]*refusal{}
	}
	e := r.seen[key]
	if e == nil {
		e = &refusal{second: second}
		r.seen[key] = e
	}
	if e.count++; e.count <= api.RefusalsPerSecond {
		return false
	}
	if e.folded++; e.folded == 1 {
		c.describe(&e.last, &api.Error{Kind: kind})
		e.last.Request, e.last.Response = nil, nil // they alias the session's memory
	}
	return true
}

// take hands over the record of each second that is over, or of all of them,
// and forgets callers who were quiet.
func (r *refusals) take(second int64, all bool, yield func(*audit.Record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range r.seen {
		if !all && e.second >= second {
			continue
		}
		if e.folded > 0 {
			e.last.Count = e.folded
			yield(&e.last)
		}
		delete(r.seen, key)
	}
}
