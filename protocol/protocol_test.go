package protocol_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/fuzz"
	"github.com/keyrack/keyrack/protocol"
)

// TestSplitAnywhere cuts a stream of three frames at every byte: what is whole
// comes out, and need says how much must be there for the next frame.
func TestSplitAnywhere(t *testing.T) {
	t.Parallel()
	frames := [][]byte{{1, 2, 3}, {}, bytes.Repeat([]byte{9}, 300)}
	var stream []byte
	for _, f := range frames {
		stream = append(binary.BigEndian.AppendUint32(stream, uint32(len(f))), f...)
	}
	for cut := range len(stream) + 1 {
		rest, n := stream[:cut], 0
		for {
			frame, after, need, err := protocol.Split(rest, 300)
			if err != nil {
				t.Fatal(err)
			}
			if frame == nil {
				if need <= len(rest) || need > 304 || len(after) != len(rest) {
					t.Fatalf("cut at %d: need %d of %d", cut, need, len(rest))
				}
				break
			}
			if !bytes.Equal(frame, frames[n]) || need != 0 || cap(frame) != len(frame) {
				t.Fatalf("cut at %d: frame %d is %x, need %d", cut, n, frame, need)
			}
			rest, n = after, n+1
		}
		if whole := cut == len(stream); whole != (n == len(frames)) {
			t.Fatalf("cut at %d: %d frames", cut, n)
		}
	}
}

// TestSplitLimit checks that a length is refused as soon as it is known.
func TestSplitLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n     uint32
		limit int
		ok    bool
	}{{0, 0, true}, {1, 0, false}, {10, 10, true}, {11, 10, false}, {math.MaxUint32, api.MaxRequestFrame, false}, {1 << 31, api.MaxReplyFrame, false}} {
		_, _, need, err := protocol.Split(binary.BigEndian.AppendUint32(nil, c.n), c.limit)
		if c.ok != (err == nil) || c.ok == errors.Is(err, protocol.ErrFrameTooLarge) || need > c.limit+4 {
			t.Errorf("%d bytes, limit %d: need %d, %v", c.n, c.limit, need, err)
		}
	}
}

// TestExchange sends a random request of every operation there and its random
// answer back.
func TestExchange(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, op := range table.All() {
		in, out, id := fuzz.Request(rng, op), op.NewOut(), api.RequestID(1+rng.Uint64N(math.MaxUint64))
		fuzz.Fill(rng, op.Out, out)
		req, err := protocol.ParseRequest(content(t, protocol.AppendRequest(nil, id, op, in)))
		if err != nil || req.ID != id || req.Op != op.Number {
			t.Fatalf("%s: got %+v, %v", op, req, err)
		}
		got := op.NewIn()
		if err := (protocol.Native{}).Decode(op, req.Body, got, nil); err != nil || !reflect.DeepEqual(got, in) {
			t.Errorf("%s: got %+v, %v\nwant %+v", op, got, err, in)
		}
		reply, err := protocol.ParseReply(content(t, protocol.Native{}.AppendReply(nil, op, id, out, nil)))
		if err != nil || reply.ID != id || reply.Kind != api.KindNone || reply.Err() != nil {
			t.Fatalf("%s: got %+v, %v", op, reply, err)
		}
		answer := op.NewOut()
		if err := op.Out.DecodeCBOR(reply.Body, answer); err != nil || !reflect.DeepEqual(answer, out) {
			t.Errorf("%s: got %+v, %v\nwant %+v", op, answer, err, out)
		}
	}
}

// content returns what is in the one frame that b is.
func content(t *testing.T, b []byte) []byte {
	t.Helper()
	frame, rest, _, err := protocol.Split(b, 1<<20)
	if err != nil || len(rest) > 0 || frame == nil {
		t.Fatalf("%x is not one frame: %v", b, err)
	}
	return frame
}

func TestErrorReply(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		err  error
		want api.Error
	}{
		{"kind alone", &api.Error{Kind: api.KindThrottling}, api.Error{Kind: api.KindThrottling}},
		{"all of it", &api.Error{Kind: api.KindUnavailable, Message: "locked", RetryAfter: 1500 * time.Millisecond, Reason: "locked"},
			api.Error{Kind: api.KindUnavailable, Message: "locked", RetryAfter: 1500 * time.Millisecond, Reason: "locked"}},
		{"cause stays here", &api.Error{Kind: api.KindInternal, Message: "m", Err: errors.New("secret path")}, api.Error{Kind: api.KindInternal, Message: "m"}},
		{"foreign error", errors.New("secret path"), *api.Internal(nil)},
		{"part of a millisecond is one", &api.Error{Kind: api.KindThrottling, RetryAfter: time.Microsecond}, api.Error{Kind: api.KindThrottling, RetryAfter: time.Millisecond}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := protocol.Native{}.AppendReply(nil, kmsapi.Encrypt.Op, 7, nil, c.err)
			p, err := protocol.ParseReply(content(t, b))
			if err != nil || p.ID != 7 || bytes.Contains(b, []byte("secret")) {
				t.Fatalf("got %+v, %v", p, err)
			}
			if got, ok := p.Err().(*api.Error); !ok || !reflect.DeepEqual(*got, c.want) {
				t.Errorf("got %+v, want %+v", p.Err(), c.want)
			}
		})
	}
}

// TestErrorOfLaterVersion checks that a client can read errors that have more
// members and kinds than it knows.
func TestErrorOfLaterVersion(t *testing.T) {
	t.Parallel()
	p, err := protocol.ParseReply(append([]byte{0x83, 0x07, 0x18, 0xc8}, "\xa2\x01\x61m\x18\x63\x82\x00\x80"...))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Err().Error(), "Kind(200): m"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for name, body := range map[string]string{"not a map": "\x80", "number for text": "\xa1\x01\x01", "out of order": "\xa2\x03\x60\x01\x60", "bytes behind": "\xa0\x00", "nothing": ""} {
		p.Body = []byte(body)
		if err := p.Err(); err == nil || !strings.HasPrefix(err.Error(), "malformed error reply") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestReplyTooLarge checks that a response beyond the frame's limit becomes an
// error, and that none of its bytes stay behind.
func TestReplyTooLarge(t *testing.T) {
	t.Parallel()
	op, record := applianceapi.ListAuditRecords.Op, bytes.Repeat([]byte("record"), 1000)
	out := &applianceapi.ListAuditRecordsResponse{}
	for range 200 {
		out.Records = append(out.Records, record)
	}
	before := []byte("earlier reply")
	b := protocol.Native{}.AppendReply(bytes.Clone(before), op, 9, out, nil)
	p, err := protocol.ParseReply(content(t, b[len(before):]))
	if err != nil || p.ID != 9 || p.Kind != api.KindInternal || !bytes.HasPrefix(b, before) {
		t.Fatalf("got %+v, %v", p, err)
	}
	if bytes.Contains(b[:cap(b)], record[:60]) {
		t.Error("a part of the response is left behind the error")
	}
}

func TestHello(t *testing.T) {
	t.Parallel()
	want := protocol.Hello{ApplianceId: "1234abcd-12ab-34cd-56ef-1234567890ab", Version: "v1", Window: 1024}
	for _, want.Checkpoint = range []string{"", "origin\n1\nhash\n"} {
		if got, err := protocol.ParseHello(content(t, protocol.AppendHello(nil, &want))); err != nil || *got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	refusal := protocol.AppendError(nil, 0, &api.Error{Kind: api.KindUnrecognizedClient})
	if _, err := protocol.ParseHello(content(t, refusal)); !errors.Is(err, &api.Error{Kind: api.KindUnrecognizedClient}) {
		t.Errorf("got %v, want the server's refusal", err)
	}
	reply := protocol.Native{}.AppendReply(nil, kmsapi.Encrypt.Op, 1, &kmsapi.EncryptResponse{}, nil)
	for name, frame := range map[string][]byte{"nothing": nil, "a reply": content(t, reply), "members missing": {0x83, 0, 0, 0xa0}, "not CBOR": []byte("HTTP/1.1 400")} {
		if h, err := protocol.ParseHello(frame); err == nil || h != nil {
			t.Errorf("%s: got %+v, %v", name, h, err)
		}
	}
}

// TestHotPathAllocatesNothing checks what is promised of speed, for what this
// package does of an Encrypt.
func TestHotPathAllocatesNothing(t *testing.T) {
	in := &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte("alias/a")), Plaintext: make(api.Secret, 32)}
	out := &kmsapi.EncryptResponse{CiphertextBlob: make(api.Blob, 137), KeyId: "k", EncryptionAlgorithm: kmsapi.SymmetricDefault}
	var wire api.Wire = protocol.Native{}
	stream, got, dst := protocol.AppendRequest(nil, 1, kmsapi.Encrypt.Op, in), new(kmsapi.EncryptRequest), make([]byte, 0, 1024)
	n := testing.AllocsPerRun(100, func() {
		*got = kmsapi.EncryptRequest{}
		frame, _, _, err := protocol.Split(stream, api.MaxRequestFrame)
		if err != nil {
			t.Fatal(err)
		}
		req, err := protocol.ParseRequest(frame)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Decode(kmsapi.Encrypt.Op, req.Body, got, nil); err != nil {
			t.Fatal(err)
		}
		dst = wire.AppendReply(dst[:0], kmsapi.Encrypt.Op, req.ID, out, nil)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
