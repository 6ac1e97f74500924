package access

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/access/policy"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/work"
)

// Call is one request on its way through a method: who asks, and the only
// means to decide, to wait and to write. It is valid until its method returns
// and for that method's goroutine alone.
type Call struct {
	session *Session
	parent  *Call // the call that made this one with Via, or nil
	ctx     context.Context
	op      *api.Op
	id      api.RequestID
	event   api.EventID
	who     *identity.Principal

	in, out  any // pointers to request and response; nil where no operation was reached
	resource string
	via      string
	stored   []byte // by Update: the finished record that stands in the store
	mayBlock bool
	class    work.Class // for which it yielded last; on a worker, the worker's: None = of all
	asked    bool       // Admit was asked
	denied   bool       // and said no, once at least
	recorded bool       // the call's one record is staged

	scratch []byte // memory of Bytes
	used    int
	spilled [][]byte // further memory of Bytes, where scratch was too small
}

// start begins a call. The principal is loaded here, for every frame.
func (c *Call) start(s *Session, id api.RequestID, event api.EventID) {
	c.wipe()
	if s.now.IsZero() {
		s.now = s.gate.Clock.Now()
	}
	*c = Call{session: s, id: id, event: event, who: s.who.Principal(s.now), scratch: c.scratch}
}

func (c *Call) begin(op *api.Op, in, out any) { c.op, c.in, c.out = op, in, out }

// acceptable says whether any call of this session can be served now: before
// the request is looked at, somebody must be asking and a record must have room.
func (c *Call) acceptable() error {
	if c.who == nil {
		return errUnknownClient
	}
	if err := c.session.gate.Log.Err(); err != nil {
		return &api.Error{Kind: api.KindUnavailable, Reason: "audit",
			Message: "the audit log cannot take more records, so nothing is done: the operator must see to it", Err: err}
	}
	return nil
}

// forget drops everything but the memory, and of that what grew.
func (c *Call) forget() {
	c.wipe()
	*c = Call{scratch: c.scratch}
}

// wipe clears the memory of Bytes.
func (c *Call) wipe() {
	clear(c.scratch[:c.used])
	for _, b := range c.spilled {
		clear(b)
	}
	c.used, c.spilled = 0, nil
}

// Ticket returns what Session.Again needs for the second run of a call that yielded.
func (c *Call) Ticket() Ticket { return Ticket{c.id, c.event, c.class} }

// Context is the connection's, or the worker's with its deadline.
func (c *Call) Context() context.Context { return c.ctx }

// Principal returns who calls. It is not nil: where the connection's principal
// is gone, no method is called.
func (c *Call) Principal() *identity.Principal { return c.who }

// Account returns the caller's account; zero for the operator.
func (c *Call) Account() api.AccountID { return c.who.Account }

// Realm returns the partition and region that the appliance answers for.
func (c *Call) Realm() api.Realm { return c.session.gate.Realm }

// Op returns the operation that is running.
func (c *Call) Op() *api.Op { return c.op }

// Now returns the time of the burst: the same for calls that came together,
// never before that of an earlier call.
func (c *Call) Now() time.Time { return c.session.now }

// Need says that what follows waits for a class of slow work. It returns nil
// where that is allowed: on a worker of that class or of a slower one, so that a key
// that has to be read first takes nobody past the few workers of slow work. Elsewhere it returns an error that the method must
// return at once: the call is run again by a worker. Call it before any effect
// and, but for reading the resource itself, after Admit.
func (c *Call) Need(class work.Class) error {
	here := c.mayBlock && (c.class == work.None || class <= c.class || c.stored != nil)
	if class == work.None || here {
		return nil
	}
	return &yields[class]
}

// Bytes returns n zero bytes for a request that is decoded, or for a response.
// They are wiped once the response has been written into the reply; those of a call made with Via, when its
// caller's are.
func (c *Call) Bytes(n int) []byte {
	if c.parent != nil {
		return c.parent.Bytes(n)
	}
	if len(c.scratch)-c.used < n {
		b := make([]byte, n)
		c.spilled = append(c.spilled, b)
		return b
	}
	b := c.scratch[c.used : c.used+n : c.used+n]
	c.used += n
	return b
}

// Resource is what a call acts on: *kms.key and its like.
type Resource interface {
	ARN() string
	Rules() *policy.Rules // immutable
}

// Admit asks the door whether the caller may run c's operation on r. A method
// must ask before it reveals anything of r; a success without asking, or in
// spite of the answer, is turned into an internal error.
func (c *Call) Admit(r Resource) error { return c.AdmitAs(c.op, r) }

// AdmitAs is Admit for another operation's action: ReEncryptFrom beside
// ReEncryptTo, an alias beside its key.
func (c *Call) AdmitAs(op *api.Op, r Resource) error {
	c.asked = true
	c.concerns(r.ARN())
	q := policy.Query{
		Action: op.Action, Account: c.who.Account,
		Root: c.who.Type == identity.Root, Operator: c.who.Type == identity.Operator,
	}
	if r.Rules().Decide(&q) != policy.Allow {
		c.denied = true
		return c.Denied(op, r.ARN())
	}
	return nil
}

// concerns adds to what the audit record names, where a call needs more than one
// consent: an alias and its key.
func (c *Call) concerns(arn string) {
	switch {
	case c.resource == "":
		c.resource = arn
	case !slices.Contains(strings.Fields(c.resource), arn):
		c.resource += " " + arn
	}
}

// Denied returns AWS's AccessDeniedException for the caller on a resource, for
// methods that must answer "unknown" in the words of "forbidden".
func (c *Call) Denied(op *api.Op, resource string) *api.Error {
	return api.Errorf(api.KindAccessDenied,
		"User: %s is not authorized to perform: %s on resource: %s because no resource-based policy allows the %s action",
		c.who.ARN, op.Action, resource, op.Action)
}

// Any returns the resource "*" of the caller's own account, for operations
// that AWS authorises there: CreateKey, ListKeys.
func Any(c *Call) Resource { return resource{"*", policy.AccountRoot(c.Account())} }

// Appliance returns the appliance itself as a resource: the operator's.
func Appliance(c *Call) Resource { return applianceUnder(c, policy.OperatorOnly()) }

// Log returns the audit log's public face as a resource, its checkpoints and
// proofs: every principal's.
func Log(c *Call) Resource { return applianceUnder(c, policy.Everyone()) }

func applianceUnder(c *Call, rules *policy.Rules) Resource {
	return resource{applianceARN(c.Realm()), rules}
}

type resource struct {
	arn   string
	rules *policy.Rules
}

// Of returns a resource with no more to it than its ARN and who may do what to
// it: an alias.
func Of(arn string, rules *policy.Rules) Resource { return resource{arn, rules} }

func (r resource) ARN() string          { return r.arn }
func (r resource) Rules() *policy.Rules { return r.rules }

// reply appends the answer to the session's burst and wipes what it was made of.
func (c *Call) reply(w api.Wire, e *api.Error) {
	n := c.used + replyRoom
	for _, b := range c.spilled {
		n += len(b)
	}
	var err error // a nil *api.Error is not a nil error
	if e != nil {
		err = e
	}
	s := c.session
	s.out = s.out.room(n)
	s.out = s.out.fill(w.AppendReply(s.out.free(), c.op, c.id, c.out, err))
	c.wipe()
}

// replyRoom is more than any reply holds beside the memory of Bytes, if it
// holds a secret.
const replyRoom = 1024
