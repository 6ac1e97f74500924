package remote

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/keyrack/keyrack/hsm"
)

// ServeOn is Serve for any connection.
func ServeOn(ctx context.Context, conn io.ReadWriter, open hsm.Opener) error {
	return serve(ctx, conn, open, nil)
}

// Process returns the process that holds the token, or nil.
func (t *Token) Process() *os.Process {
	if l, _ := t.current(); l != nil {
		return l.cmd.Process
	}
	return nil
}

// Hasten shortens the time that the process which holds the token now has for a call.
func (t *Token) Hasten(timeout time.Duration) {
	l, _ := t.current()
	l.cfg.Timeout = timeout
}

// WriteFrame writes a frame.
func WriteFrame(w io.Writer, number uint32, kind byte, body []byte) error {
	return writeFrame(w, number, kind, body, nil)
}

// ReadFrame reads a frame.
func ReadFrame(r io.Reader) (number uint32, kind byte, body []byte, err error) {
	f, err := readFrame(r)
	if err != nil {
		return 0, 0, nil, err
	}
	defer f.free()
	return f.number, f.kind, append(body, f.bytes()...), nil
}
