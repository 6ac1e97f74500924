package remote

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

// A frame is: length of the body 4 bytes, number 4, kind 1, body; integers are big-endian. The kind of a request is its op, of an
// answer 0 for success or 1 for an error. The first answer, number 0, comes unasked: the token's description, or why it does not open.
const (
	headSize = 9
	maxBody  = 64 << 10
	maxBlob  = 16 << 10
	// maxRandom is how many bytes are asked for at once.
	maxRandom = 4 << 10
)

// The requests. A blob before an input has its length before it, 2 bytes.
const (
	opCancel   = iota + 1 // nobody waits for the request of this number; no body, no answer
	opGenerate            // spec 1 byte; answer: a madeKey
	opLoad                // blob; answer: a madeKey without blob
	opDestroy             // blob; empty answer
	opRandom              // length 4 bytes; answer: the bytes
	opPRF                 // blob with length, input; answer: 32 bytes
	opSign                // blob with length, digest; answer: the signature, DER
	opPlan                // spec 1 byte; answer: the plan
	opMake                // spec 1 byte, plan; answer: a madeKey
	opClose               // empty answer, after which the process ends
)

const (
	succeeded = 0
	failed    = 1
)

// madeKey describes a key; its public half is an uncompressed point or empty.
type madeKey struct {
	Spec         hsm.Spec
	Blob, Public []byte
}

// wireError is an error on its way: its text, and which of the known errors it is.
type wireError struct {
	Text string
	Is   []int
}

// known returns the errors that cross the border, in one order on both sides.
func known(more []error) []error {
	return append([]error{hsm.ErrClosed, hsm.ErrBlob, hsm.ErrSpec, hsm.ErrInput, context.Canceled, context.DeadlineExceeded}, more...)
}

// encodeError makes the body of an error's answer. A text that is too long is cut.
func encodeError(err error, more []error) []byte {
	e := wireError{Text: err.Error()}
	if len(e.Text) > maxBody/8 { // JSON may make six bytes of one
		e.Text = e.Text[:maxBody/8]
	}
	for i, k := range known(more) {
		if errors.Is(err, k) {
			e.Is = append(e.Is, i)
		}
	}
	b, _ := json.Marshal(e) // a string and numbers always have a JSON
	return b
}

// remoteError is an error of the other process.
type remoteError struct {
	text string
	is   []error
}

// Error returns the text as it was there.
func (e *remoteError) Error() string { return e.text }

// Unwrap returns the known errors that it was.
func (e *remoteError) Unwrap() []error { return e.is }

// decodeError reads what encodeError wrote.
func decodeError(body []byte, more []error) error {
	var e wireError
	if err := json.Unmarshal(body, &e); err != nil {
		return fmt.Errorf("%w: an error", ErrReply)
	}
	all, out := known(more), &remoteError{text: e.Text}
	for _, i := range e.Is {
		if i < 0 || i >= len(all) {
			return fmt.Errorf("%w: an error", ErrReply)
		}
		out.is = append(out.is, all[i])
	}
	return out
}

// frame is one frame. Its body lies in locked memory, and is nil if empty; free ends it.
type frame struct {
	number uint32
	kind   byte
	body   *securemem.Buffer
}

// bytes returns the body.
func (f *frame) bytes() []byte {
	if f.body == nil {
		return nil
	}
	return f.body.Bytes()
}

func (f *frame) free() {
	if f.body != nil {
		f.body.Free()
	}
}

// readFrame reads a frame. Its length is judged before memory is spent.
func readFrame(r io.Reader) (f frame, err error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	size := binary.BigEndian.Uint32(head[:])
	f.number, f.kind = binary.BigEndian.Uint32(head[4:]), head[8]
	if size > maxBody {
		return f, fmt.Errorf("%w: a frame of %d bytes", ErrReply, size)
	}
	if size == 0 {
		return f, nil
	}
	if f.body, err = securemem.New(int(size)); err != nil {
		return f, err
	}
	if _, err := io.ReadFull(r, f.body.Bytes()); err != nil {
		f.free()
		return frame{}, err
	}
	return f, nil
}

// writeFrame writes a frame whose body is head and tail. It copies neither: they may be secret.
func writeFrame(w io.Writer, number uint32, kind byte, head, tail []byte) error {
	var b [headSize]byte
	binary.BigEndian.PutUint32(b[:], uint32(len(head)+len(tail)))
	binary.BigEndian.PutUint32(b[4:], number)
	b[8] = kind
	for _, part := range [][]byte{b[:], head, tail} {
		if len(part) == 0 {
			continue
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// splitBlob parts a blob from the input behind it.
func splitBlob(body []byte) (blob, input []byte, ok bool) {
	if len(body) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(body))
	if len(body) < 2+n {
		return nil, nil, false
	}
	return body[2 : 2+n], body[2+n:], true
}
