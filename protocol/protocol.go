// Package protocol is the native wire: CBOR in length-prefixed frames, as
// PROTOCOL.md beside it describes.
//
// Read first: PROTOCOL.md; [Native], the encoding of requests and replies;
// [Split] and [ParseRequest], which see a peer's bytes first and so check every
// bound before memory is spent.
//
// It opens no socket, so it can be fuzzed as it is; protocol/server and
// protocol/client do.
package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/cbor"
)

// ALPN is the protocol's name in the TLS handshake (RFC 7301).
const ALPN = "keyrack/1"

// lengthSize is the size of the length before a frame, in bytes.
const lengthSize = 4

// ErrFrameTooLarge is returned by [Split] for a length beyond its limit.
var ErrFrameTooLarge = errors.New("frame is larger than allowed")

// Split cuts the first frame off buf. rest is what follows it. If buf holds no
// whole frame, frame is nil and need is how many bytes buf must hold for it,
// length included: at least 4, at most limit+4. limit is on the length field.
func Split(buf []byte, limit int) (frame, rest []byte, need int, err error) {
	if len(buf) < lengthSize {
		return nil, buf, lengthSize, nil
	}
	n := binary.BigEndian.Uint32(buf)
	if uint64(n) > uint64(limit) {
		return nil, buf, 0, fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrFrameTooLarge, n, limit)
	}
	end := lengthSize + int(n)
	if len(buf) < end {
		return nil, buf, end, nil
	}
	return buf[lengthSize:end:end], buf[end:], 0, nil
}

// openFrame appends room for a length; closeFrame writes it.
func openFrame(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

func closeFrame(dst []byte, at int) []byte {
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-lengthSize))
	return dst
}

// Request is the envelope of a request. Body aliases the frame.
type Request struct {
	ID   api.RequestID
	Op   uint16
	Body []byte // the map {member number: value}, not checked yet
}

// ParseRequest reads the envelope [id, op, body, options]. An error with id 0
// means that the peer does not speak this protocol; one with another id is the
// answer to that request.
func ParseRequest(frame []byte) (Request, error) {
	r := cbor.NewReader(frame)
	n, err := r.Array()
	if err == nil && n != 4 {
		err = fmt.Errorf("request has %d items, want 4", n)
	}
	if err != nil {
		return Request{}, err
	}
	id, err := r.Uint()
	if err == nil && id == 0 {
		err = errors.New("request has id 0, which is the connection's own")
	}
	if err != nil {
		return Request{}, err
	}
	op, err := r.Uint()
	if err == nil && op > 0xffff {
		err = errors.New("operation number is larger than 65535")
	}
	if err != nil {
		return Request{}, err
	}
	body, err := splitOptions(&r)
	return Request{api.RequestID(id), uint16(op), body}, err
}

// splitOptions cuts the options off what follows the operation. The usual empty
// options are one byte, so the body need not be walked to find its end: whoever
// decodes it finds out whether it is one item.
func splitOptions(r *cbor.Reader) ([]byte, error) {
	if rest := r.Rest(); len(rest) > 1 && rest[len(rest)-1] == emptyMap {
		return rest[: len(rest)-1 : len(rest)-1], nil
	}
	body, err := r.Raw()
	if err != nil {
		return nil, err
	}
	if _, err := r.Map(); err != nil {
		return nil, err
	}
	return body, errors.New("request has an option that this version does not know")
}

const emptyMap = 0xa0

// AppendRequest appends a whole request frame for in, a pointer to op's request.
func AppendRequest(dst []byte, id api.RequestID, op *api.Op, in any) []byte {
	at := len(dst)
	dst = cbor.AppendArray(openFrame(dst), 4)
	dst = cbor.AppendUint(dst, uint64(id))
	dst = cbor.AppendUint(dst, uint64(op.Number))
	dst = op.In.AppendCBOR(dst, in)
	return closeFrame(append(dst, emptyMap), at)
}

// Reply is the envelope of a reply. Body aliases the frame: the response's map
// if Kind is KindNone, else the error's.
type Reply struct {
	ID   api.RequestID
	Kind api.Kind
	Body []byte
}

// ParseReply reads the envelope [id, kind, body].
func ParseReply(frame []byte) (Reply, error) {
	r := cbor.NewReader(frame)
	n, err := r.Array()
	if err == nil && n != 3 {
		err = fmt.Errorf("reply has %d items, want 3", n)
	}
	if err != nil {
		return Reply{}, err
	}
	id, err := r.Uint()
	if err != nil {
		return Reply{}, err
	}
	kind, err := r.Uint()
	if err == nil && kind > 0xff {
		err = errors.New("error kind is larger than 255")
	}
	return Reply{api.RequestID(id), api.Kind(kind), r.Rest()}, err
}

// Numbers of the members of an error's map.
const (
	errorMessage    = 1
	errorRetryAfter = 2 // ms, rounded up
	errorReason     = 3
)

// Err returns the error that the reply carries, or nil.
func (p *Reply) Err() error {
	if p.Kind == api.KindNone {
		return nil
	}
	e := &api.Error{Kind: p.Kind}
	if err := readError(p.Body, e); err != nil {
		return fmt.Errorf("malformed error reply: %w", err)
	}
	return e
}

func readError(body []byte, e *api.Error) error {
	r := cbor.NewReader(body)
	n, err := r.Map()
	var next uint64
	for ; n > 0 && err == nil; n-- {
		var k, ms uint64
		var text []byte
		if k, err = r.UintKey(&next); err != nil {
			return err
		}
		switch k {
		case errorMessage:
			text, err = r.Text()
			e.Message = string(text)
		case errorRetryAfter:
			ms, err = r.Uint()
			e.RetryAfter = time.Duration(min(ms, 1<<31)) * time.Millisecond
		case errorReason:
			text, err = r.Text()
			e.Reason = string(text)
		default:
			_, err = r.Raw() // of a later version
		}
	}
	if err != nil {
		return err
	}
	return r.Done()
}

// Native is the native encoding. The zero value is ready; safe for concurrent use.
type Native struct{}

var _ api.Wire = Native{}

// Decode reads and checks the map {member number: value} of a request.
func (Native) Decode(op *api.Op, body []byte, in any, _ api.Memory) error {
	return op.In.DecodeCBOR(body, in)
}

// AppendReply appends a whole reply frame.
func (Native) AppendReply(dst []byte, op *api.Op, id api.RequestID, out any, err error) []byte {
	at := len(dst)
	if err == nil {
		dst = op.Out.AppendCBOR(appendReplyHead(dst, id, api.KindNone), out)
		if len(dst)-at-lengthSize <= api.MaxReplyFrame {
			return closeFrame(dst, at)
		}
		clear(dst[at:])
		dst, err = dst[:at], api.Errorf(api.KindInternal, "the reply would be larger than %d bytes: ask for less at a time", api.MaxReplyFrame)
	}
	return AppendError(dst, id, api.AsError(err))
}

func appendReplyHead(dst []byte, id api.RequestID, k api.Kind) []byte {
	dst = cbor.AppendArray(openFrame(dst), 3)
	return cbor.AppendUint(cbor.AppendUint(dst, uint64(id)), uint64(k))
}

// AppendError appends a whole error reply. Id 0 is the connection's own error:
// the connection ends after it.
func AppendError(dst []byte, id api.RequestID, e *api.Error) []byte {
	at := len(dst)
	dst = appendReplyHead(dst, id, e.Kind)
	n := 0
	for _, present := range []bool{e.Message != "", e.RetryAfter > 0, e.Reason != ""} {
		if present {
			n++
		}
	}
	dst = cbor.AppendMap(dst, n)
	if e.Message != "" {
		dst = cbor.AppendText(cbor.AppendUint(dst, errorMessage), e.Message)
	}
	if e.RetryAfter > 0 {
		dst = cbor.AppendUint(cbor.AppendUint(dst, errorRetryAfter), uint64((e.RetryAfter + time.Millisecond - 1).Milliseconds()))
	}
	if e.Reason != "" {
		dst = cbor.AppendText(cbor.AppendUint(dst, errorReason), e.Reason)
	}
	return closeFrame(dst, at)
}
