package tpm2

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	tpm "github.com/google/go-tpm/tpm2"
)

// SetTimeout changes what one command may take, from the next operation on. No operation is under way.
func (t *Token) SetTimeout(d time.Duration) {
	t.cfg.Timeout = d
	if t.link != nil {
		t.link.timeout = d
	}
}

// Indexes returns the indexes of our range that exist.
func (t *Token) Indexes(ctx context.Context) (list []tpm.TPMHandle, err error) {
	err = t.use(ctx, func(l *link) error {
		list, err = l.used()
		return err
	})
	return list, err
}

// Canonical parses a blob and writes it again.
func Canonical(p []byte) ([]byte, error) {
	b, err := parseBlob(p)
	if err != nil {
		return nil, err
	}
	return b.bytes(), nil
}

// Repair gives a blob that was altered a digest that fits.
func Repair(p []byte) {
	sum := sha256.Sum256(p[:len(p)-sumSize])
	copy(p[len(p)-sumSize:], sum[:])
}

// Converse has a connection prepared, and the chip described, by a chip that answers with parts of script: each two bytes of length, then
// the reply.
func Converse(script []byte) error {
	l := &link{ctx: context.Background(), timeout: time.Millisecond, port: &scripted{script}, sessions: map[sessionKind]tpm.Session{}}
	if err := l.prepare(nil, true); err != nil {
		return err
	}
	_, err := l.describe()
	return err
}

type scripted struct{ rest []byte }

func (s *scripted) Close() error { return nil }

func (s *scripted) exchange(context.Context, []byte, time.Time) ([]byte, error) {
	if len(s.rest) < 2 {
		return nil, ErrUnreachable
	}
	n := min(int(binary.BigEndian.Uint16(s.rest)), len(s.rest)-2)
	reply := s.rest[2:][:n]
	s.rest = s.rest[2+n:]
	if n < headerSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrGarbage, n)
	}
	return append([]byte(nil), reply...), nil
}
