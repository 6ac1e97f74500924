package api

import "reflect"

// Service is one family of operations: its name in ARNs and actions, the name
// AWS's JSON target uses, and the block of 256 wire numbers that is its own.
type Service struct {
	Name   string // "kms": prefix of actions and the SERVICE of `keyrack call`
	Target string // "TrentService": prefix of X-Amz-Target; "" = not on AWS wires
	Block  uint16 // wire numbers are Block<<8 | row
}

// The services. Blocks are frozen; block 0 is no service.
var (
	KMS       = &Service{Name: "kms", Target: "TrentService", Block: 1}
	Appliance = &Service{Name: "keyrack", Block: 5}
)

// Flags say what holds for every call of an operation, whoever calls.
type Flags uint8

const (
	// ReadOnly operations change nothing: they may be retried by a client and
	// never reach [access.Call.Update].
	ReadOnly Flags = 1 << iota
	// Idempotent operations may be repeated with the same outcome.
	Idempotent
)

// Op is a row of the table of operations. Fronts, the door, the audit log,
// the command line, documents and fuzz seeds range over these rows.
type Op struct {
	Service *Service
	Name    string // AWS's operation name
	Number  uint16 // wire number, frozen by a golden file; never reused
	Action  string // IAM action, "kms:Encrypt"
	Flags   Flags
	In, Out *Struct // field tables of request and response

	newIn, newOut func() any
}

// String returns the action.
func (o *Op) String() string { return o.Action }

// NewIn returns a pointer to a zero request.
func (o *Op) NewIn() any { return o.newIn() }

// NewOut returns a pointer to a zero response.
func (o *Op) NewOut() any { return o.newOut() }

// OpOf is a row that knows its request and response types, so that binding a
// method of another shape to it does not compile.
type OpOf[In, Out any] struct{ *Op }

// Define makes a row. number is the row's place in its service's block, 1 to
// 255. It panics on a malformed tag: a programmer's error, found by any test.
func Define[In, Out any](s *Service, name string, number uint8, flags Flags) OpOf[In, Out] {
	return OpOf[In, Out]{&Op{
		Service: s, Name: name, Number: s.Block<<8 | uint16(number), Action: s.Name + ":" + name, Flags: flags,
		In: StructOf(reflect.TypeFor[In]()), Out: StructOf(reflect.TypeFor[Out]()),
		newIn: func() any { return new(In) }, newOut: func() any { return new(Out) },
	}}
}

// Wire is one encoding of requests and replies: native CBOR, AWS JSON,
// rpc-v2-cbor. Implementations keep no state of a call; safe for concurrent use.
type Wire interface {
	// Decode reads body into in, a pointer to the operation's zero request, and
	// checks it. What it stores may alias body, and bytes of mem where they do not
	// stand in body as they are: a plaintext is nowhere else. It returns an *Error.
	Decode(op *Op, body []byte, in any, mem Memory) error
	// AppendReply appends the whole reply to request id: out if err is nil,
	// else err. It keeps nothing of out.
	AppendReply(dst []byte, op *Op, id RequestID, out any, err error) []byte
}

// Memory gives out n zero bytes, which whoever made it wipes once the request is
// over. It is for one goroutine.
type Memory interface {
	Bytes(n int) []byte
}

// RequestID is what a caller calls a request by on its connection: greater
// than 0, its own choice, unique among the requests under way.
type RequestID uint64
