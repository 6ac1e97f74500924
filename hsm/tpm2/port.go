package tpm2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var (
	// ErrUnreachable is wrapped when nothing can be connected to at the configured path, or when the connection breaks.
	ErrUnreachable = errors.New("tpm2: TPM cannot be reached")

	// ErrSilent is wrapped when the TPM does not answer a command in time. What became of the command is unknown.
	ErrSilent = errors.New("tpm2: TPM does not answer")

	// ErrGarbage is wrapped when an answer is no TPM reply, is cut, or does not authenticate: a wrong device at the path, a broken
	// bus, or somebody between.
	ErrGarbage = errors.New("tpm2: TPM answers what is not a reply")
)

// Sizes of a reply, TPM 2.0 Part 1, 18: tag 2, size 4, response code 4, then the rest. 4096 is TPM2_MAX_RESPONSE_SIZE of every chip known.
const (
	headerSize = 10
	maxReply   = 4096
)

// port is a byte transport to one TPM. It is used by one goroutine at a time; after an error it is good for Close alone.
type port interface {
	// exchange writes a command and returns its whole reply: at least a header, whose size is that of the reply.
	// It returns an error that wraps ErrUnreachable, ErrSilent or ErrGarbage, or ctx's.
	exchange(ctx context.Context, command []byte, deadline time.Time) ([]byte, error)
	Close() error
}

// dial connects to the TPM at path: a device node, a Unix socket, or tcp:HOST:PORT. managed tells whether the kernel's resource
// manager is between, which keeps our handles apart from others'.
func dial(ctx context.Context, path string, deadline time.Time) (p port, managed bool, err error) {
	network, address := "unix", path
	if host, ok := strings.CutPrefix(path, "tcp:"); ok {
		network, address = "tcp", host
	} else {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return nil, false, fmt.Errorf("%w: %w", ErrUnreachable, err)
		case info.Mode()&fs.ModeCharDevice != 0:
			n, err := openNode(path)
			return n, strings.HasPrefix(filepath.Base(path), "tpmrm"), err
		case info.Mode()&fs.ModeSocket == 0:
			return nil, false, fmt.Errorf("%w: %s is neither a device nor a socket", ErrUnreachable, path)
		}
	}
	c, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, network, address)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return stream{c}, false, nil
}

// stream is a socket on which commands and replies follow each other without further framing, as swtpm's.
type stream struct{ net.Conn }

// exchange implements port.
func (s stream) exchange(ctx context.Context, command []byte, deadline time.Time) ([]byte, error) {
	if err := s.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := s.transact(command)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return reply, err
}

// transact writes the command and reads a header, which says how much to read then.
func (s stream) transact(command []byte) ([]byte, error) {
	if _, err := s.Write(command); err != nil {
		return nil, broken(err)
	}
	reply := make([]byte, headerSize, 512)
	if _, err := io.ReadFull(s, reply); err != nil {
		return nil, broken(err)
	}
	size := binary.BigEndian.Uint32(reply[2:])
	if size < headerSize || size > maxReply {
		return nil, fmt.Errorf("%w: its size field says %d", ErrGarbage, size)
	}
	reply = append(reply, make([]byte, size-headerSize)...)
	if _, err := io.ReadFull(s, reply[headerSize:]); err != nil {
		return nil, broken(err)
	}
	return reply, nil
}

// broken says what an error of the connection means.
func broken(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrSilent
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends in the middle", ErrGarbage)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// node is a device node, on which one write is a command and one read its reply. The kernel lets neither be given up, so a goroutine
// of its own waits; it ends when the kernel does, which has time limits for every command.
type node struct{ f *os.File }

// openNode opens the device at path. Not by os.OpenFile: on a file that does not block, the driver answers a read that comes before
// the reply with no bytes, as at the end of a file.
func openNode(path string) (port, error) {
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, &fs.PathError{Op: "open", Path: path, Err: err})
	}
	return node{os.NewFile(uintptr(fd), path)}, nil
}

// Close implements port.
func (n node) Close() error { return n.f.Close() }

// exchange implements port.
func (n node) exchange(ctx context.Context, command []byte, deadline time.Time) ([]byte, error) {
	type answer struct {
		reply []byte
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		reply := make([]byte, maxReply)
		_, err := n.f.Write(command)
		var got int
		if err == nil {
			if got, err = n.f.Read(reply); errors.Is(err, io.EOF) {
				err = nil // a device that has nothing to say is no TPM
			}
		}
		answers <- answer{reply[:got], err}
	}()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case a := <-answers:
		switch {
		case a.err != nil:
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, a.err)
		case len(a.reply) < headerSize || int(binary.BigEndian.Uint32(a.reply[2:])) != len(a.reply):
			return nil, fmt.Errorf("%w: %d bytes that are not one reply", ErrGarbage, len(a.reply))
		}
		return a.reply, nil
	case <-timer.C:
		return nil, ErrSilent
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
