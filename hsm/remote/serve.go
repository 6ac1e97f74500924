package remote

import (
	"context"
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

const (
	descriptor = 3    // of the socket, in the process that serves
	maxCalls   = 64   // requests at a time; more wait in the socket
	maxLoaded  = 1024 // keys that stay loaded
)

// server is a token that another process uses.
type server struct {
	token  hsm.Provider
	errors []error
	conn   io.Writer

	writing sync.Mutex // keeps frames whole

	mu     sync.Mutex // guards all below
	loaded map[string]hsm.Key
	calls  map[uint32]context.CancelFunc
}

// Serve opens a token and does what the process at the other end of descriptor 3 asks of it, until that closes the socket or ends. That
// the token does not open it tells that process; it returns errors that it can tell nobody.
func Serve(ctx context.Context, open hsm.Opener, known []error) error {
	file := os.NewFile(descriptor, "token")
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("remote: descriptor %d is no socket: start keyrack serve instead: %w", descriptor, err)
	}
	file.Close() // conn has a copy, which no child inherits
	defer conn.Close()
	return serve(ctx, conn, open, known)
}

// serve is Serve for any connection.
func serve(ctx context.Context, conn io.ReadWriter, open hsm.Opener, known []error) error {
	s := &server{errors: known, conn: conn, loaded: map[string]hsm.Key{}, calls: map[uint32]context.CancelFunc{}}
	var err error
	if s.token, err = open(ctx); err != nil {
		return s.reply(0, failed, encodeError(err, known))
	}
	about, err := json.Marshal(s.token.Describe())
	if err == nil {
		err = s.reply(0, succeeded, about)
	}
	if err != nil {
		return errors.Join(err, s.token.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.requests(ctx, conn)
	return nil // a call that never returns must not keep the process
}

// requests reads requests until there are none any more.
func (s *server) requests(ctx context.Context, r io.Reader) {
	room := make(chan struct{}, maxCalls)
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		switch f.kind {
		case opCancel:
			s.cancel(f.number)
			f.free()
			continue
		case opClose:
			f.free()
			s.answer(f.number, nil, s.token.Close())
			return
		}
		room <- struct{}{}
		call, cancel := context.WithCancel(ctx)
		s.begin(f.number, cancel)
		go func() {
			defer func() { <-room }()
			defer f.free()
			defer s.cancel(f.number)
			s.handle(call, f)
		}()
	}
}

func (s *server) begin(number uint32, cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[number] = cancel
}

// cancel ends the context of a request, and forgets it.
func (s *server) cancel(number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.calls[number]; cancel != nil {
		cancel()
		delete(s.calls, number)
	}
}

// answer sends what a request came to.
func (s *server) answer(number uint32, body []byte, err error) {
	kind := byte(succeeded)
	if err != nil {
		kind, body = failed, encodeError(err, s.errors)
	}
	_ = s.reply(number, kind, body) // whoever has asked is gone, and so is this process soon
}

func (s *server) reply(number uint32, kind byte, body []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return writeFrame(s.conn, number, kind, body, nil)
}

// handle does one request.
func (s *server) handle(ctx context.Context, f frame) {
	var body []byte
	var err error
	switch in := f.bytes(); f.kind {
	case opGenerate:
		body, err = s.generate(ctx, in)
	case opPlan:
		body, err = s.plan(ctx, in)
	case opMake:
		body, err = s.make(ctx, in)
	case opLoad:
		body, err = s.load(ctx, in)
	case opDestroy:
		err = s.destroy(ctx, in)
	case opRandom, opPRF:
		s.secret(ctx, f.number, f.kind, in)
		return
	case opSign:
		body, err = s.sign(ctx, in)
	default:
		err = fmt.Errorf("%w: a request of kind %d", ErrReply, f.kind)
	}
	s.answer(f.number, body, err)
}

func (s *server) generate(ctx context.Context, in []byte) ([]byte, error) {
	if len(in) != 1 {
		return nil, hsm.ErrSpec
	}
	k, blob, err := s.token.Generate(ctx, hsm.Spec(in[0]))
	if err != nil {
		return nil, err
	}
	return s.keep(k, blob, blob)
}

// plan and make are for tokens whose keys can be planned.
func (s *server) plan(ctx context.Context, in []byte) ([]byte, error) {
	planner, ok := s.token.(hsm.Planner)
	if len(in) != 1 || !ok {
		return nil, hsm.ErrSpec
	}
	return planner.Plan(ctx, hsm.Spec(in[0]))
}

func (s *server) make(ctx context.Context, in []byte) ([]byte, error) {
	planner, ok := s.token.(hsm.Planner)
	if len(in) < 1 || !ok {
		return nil, hsm.ErrSpec
	}
	k, blob, err := planner.Make(ctx, hsm.Spec(in[0]), in[1:])
	if err != nil {
		return nil, err
	}
	return s.keep(k, blob, blob)
}

func (s *server) load(ctx context.Context, blob []byte) ([]byte, error) {
	k, err := s.token.Load(ctx, blob)
	if err != nil {
		return nil, err
	}
	return s.keep(k, blob, nil)
}

// keep remembers a loaded key, and describes it.
func (s *server) keep(k hsm.Key, blob, told []byte) (body []byte, err error) {
	made := madeKey{Spec: k.Spec(), Blob: told}
	if public, ok := k.Public().(*ecdsa.PublicKey); ok {
		if made.Public, err = public.Bytes(); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.loaded { // whichever comes first: they are loaded again when needed
		if len(s.loaded) < maxLoaded {
			break
		}
		delete(s.loaded, name) // not closed: a call may use it
	}
	s.loaded[string(blob)] = k
	return json.Marshal(made)
}

// key returns the key of a blob, loaded if need be.
func (s *server) key(ctx context.Context, blob []byte) (hsm.Key, error) {
	s.mu.Lock()
	k := s.loaded[string(blob)]
	s.mu.Unlock()
	if k != nil {
		return k, nil
	}
	k, err := s.token.Load(ctx, blob)
	if err == nil {
		_, err = s.keep(k, blob, nil)
	}
	return k, err
}

func (s *server) destroy(ctx context.Context, blob []byte) error {
	err := s.token.Destroy(ctx, blob)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.loaded, string(blob))
	return err
}

// secret answers what is not for the heap, from locked memory.
func (s *server) secret(ctx context.Context, number uint32, op byte, in []byte) {
	size := uint32(prfSize)
	if op == opRandom {
		if len(in) != 4 {
			s.answer(number, nil, hsm.ErrInput)
			return
		}
		size = binary.BigEndian.Uint32(in)
	}
	if size > maxRandom {
		s.answer(number, nil, hsm.ErrInput)
		return
	}
	buf, err := securemem.New(max(1, int(size)))
	if err != nil {
		s.answer(number, nil, err)
		return
	}
	defer buf.Free()
	out := buf.Bytes()[:size]
	if op == opRandom {
		s.answer(number, out, s.token.Random(ctx, out))
		return
	}
	out, err = s.prf(ctx, out[:0], in)
	s.answer(number, out, err)
}

const prfSize = 32 // bytes of a PRF's answer

func (s *server) prf(ctx context.Context, dst, in []byte) ([]byte, error) {
	blob, input, ok := splitBlob(in)
	if !ok {
		return nil, hsm.ErrInput
	}
	k, err := s.key(ctx, blob)
	if err != nil {
		return nil, err
	}
	prf, ok := k.(hsm.PRF)
	if !ok {
		return nil, hsm.ErrSpec
	}
	return prf.PRF(ctx, dst, input)
}

func (s *server) sign(ctx context.Context, in []byte) ([]byte, error) {
	blob, digest, ok := splitBlob(in)
	if !ok {
		return nil, hsm.ErrInput
	}
	k, err := s.key(ctx, blob)
	if err != nil {
		return nil, err
	}
	signer, ok := k.(hsm.Signer)
	if !ok {
		return nil, hsm.ErrSpec
	}
	return signer.SignDigest(ctx, digest)
}
