package tpm2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	tpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

var (
	// ErrFailed is wrapped when the chip's self-test failed or it is in failure mode.
	ErrFailed = errors.New("tpm2: TPM is in failure mode")

	// ErrBusy is wrapped when other programs hold the chip's few slots for keys and sessions.
	ErrBusy = errors.New("tpm2: no free slot in the TPM")
)

// link is a connection to the TPM and what of ours is loaded there. The operation under way owns it. It never holds more than one key
// and two sessions, of the three each that every chip has; the storage root key takes the second slot while it is used, and a
// key that is being loaded or made the third.
type link struct {
	ctx     context.Context // of the operation under way
	timeout time.Duration   // of one command
	port    port
	managed bool  // a resource manager is between
	fault   error // why the connection is good for nothing any more; nil while it works
	root    *rootKey

	key      tpm.TPMHandle // the loaded key, or 0
	loaded   *blob         // what it was loaded from
	sessions map[sessionKind]tpm.Session
}

// sessionKind is what a session is for: go-tpm fixes both when it starts one.
type sessionKind struct {
	reply bool // the first parameter of the reply is encrypted, not only the command's
	pin   bool // the PIN's authorization value goes into its HMACs
}

var _ transport.TPM = (*link)(nil)

// Send implements transport.TPM: it is how go-tpm reaches the chip. It repeats a command that the chip puts off, within the time limit.
func (l *link) Send(command []byte) ([]byte, error) {
	deadline := time.Now().Add(l.timeout)
	for wait := 2 * time.Millisecond; ; wait *= 2 {
		if l.fault != nil {
			return nil, l.fault
		}
		reply, err := l.port.exchange(l.ctx, command, deadline)
		if err == nil {
			err = checkReply(reply)
		}
		if err != nil {
			l.fault = err
			return nil, err
		}
		if !putOff(tpm.TPMRC(binary.BigEndian.Uint32(reply[6:]))) || time.Now().Add(wait).After(deadline) {
			return reply, nil
		}
		select {
		case <-time.After(min(wait, time.Second)):
		case <-l.ctx.Done():
			l.fault = l.ctx.Err()
		}
	}
}

// putOff reports whether a code asks for the same command again, TPM 2.0 Part 2, 6.6.3.
func putOff(rc tpm.TPMRC) bool {
	return rc == tpm.TPMRCRetry || rc == tpm.TPMRCYielded || rc == tpm.TPMRCTesting || rc == tpm.TPMRCNVRate
}

// checkReply refuses what TPM 2.0 Part 1, 18 does not allow: a failure is a bare header without sessions. Codes have 12 bits, or 20
// where a resource manager answers in the chip's place.
func checkReply(reply []byte) error {
	tag, code := tpm.TPMST(binary.BigEndian.Uint16(reply)), binary.BigEndian.Uint32(reply[6:])
	switch {
	case code == 0 && (tag == tpm.TPMSTNoSessions || tag == tpm.TPMSTSessions):
	case code != 0 && code < 1<<20 && tag == tpm.TPMSTNoSessions && len(reply) == headerSize:
	default:
		return fmt.Errorf("%w: tag %04x, code %08x, %d bytes", ErrGarbage, uint16(tag), code, len(reply))
	}
	return nil
}

// run executes a command of go-tpm. It returns a tpm.TPMRC that the chip answered, or an error after which the connection
// is of no use: a reply that does not parse or authenticate may belong to another command.
func run[R any](l *link, execute func(transport.TPM, ...tpm.Session) (*R, error), sessions ...tpm.Session) (reply *R, err error) {
	reply, err = execute(l, sessions...)
	var rc tpm.TPMRC
	switch {
	case err == nil:
		return reply, nil
	case l.fault != nil:
		return nil, l.fault
	case errors.As(err, &rc):
		return nil, meaning(rc)
	}
	l.fault = fmt.Errorf("%w: %w", ErrGarbage, err)
	return nil, l.fault
}

// meaning wraps the codes that every command may answer and that have a way out of their own.
func meaning(rc tpm.TPMRC) error {
	switch rc {
	case tpm.TPMRCFailure:
		return fmt.Errorf("%w: %w", ErrFailed, rc)
	case tpm.TPMRCObjectMemory, tpm.TPMRCObjectHandles, tpm.TPMRCSessionMemory, tpm.TPMRCSessionHandles, tpm.TPMRCContextGap:
		return fmt.Errorf("%w: %w", ErrBusy, rc)
	case tpm.TPMRCLockout:
		return fmt.Errorf("%w: %w", ErrLockout, rc)
	}
	return rc
}

// raw executes a command that go-tpm does not have, without sessions, and returns the parameters of its reply.
func (l *link) raw(code tpm.TPMCC, parameters ...byte) ([]byte, error) {
	command := binary.BigEndian.AppendUint16(nil, uint16(tpm.TPMSTNoSessions))
	command = binary.BigEndian.AppendUint32(command, uint32(headerSize+len(parameters)))
	command = binary.BigEndian.AppendUint32(command, uint32(code))
	reply, err := l.Send(append(command, parameters...))
	if err != nil {
		return nil, err
	}
	if rc := tpm.TPMRC(binary.BigEndian.Uint32(reply[6:])); rc != tpm.TPMRCSuccess {
		return nil, meaning(rc)
	}
	return reply[headerSize:], nil
}

// flush takes a key or a session out of the chip. One that the chip does not know is out already; one that stays there ends the
// connection: the next one clears it away.
func (l *link) flush(h tpm.TPMHandle) error {
	_, err := run(l, tpm.FlushContext{FlushHandle: h}.Execute)
	if err == nil || errors.Is(err, tpm.TPMRCHandle) {
		return nil
	}
	if l.fault == nil {
		l.fault = err
	}
	return err
}

// clear takes everything of ours out of the chip.
func (l *link) clear() {
	l.clearKey()
	for kind, s := range l.sessions {
		delete(l.sessions, kind)
		_ = l.flush(s.Handle())
	}
}

// clearKey takes the loaded key out of the chip.
func (l *link) clearKey() {
	if l.key != 0 {
		_ = l.flush(l.key)
	}
	l.key, l.loaded = 0, nil
}

// close ends the connection.
func (l *link) close() error {
	l.clear()
	return l.port.Close()
}

// salted returns the options of a session whose key only the chip can know: an interposer that offers a storage root key of its own
// is found out by the key's Name. AES-128 in CFB mode is what every chip offers, TPM 2.0 Part 1, 21.3.
func (l *link) salted(auth []byte) []tpm.AuthOption {
	return []tpm.AuthOption{tpm.Salted(l.root.handle, l.root.public), tpm.Auth(auth)}
}

// once returns a session for one command that authorizes with auth. Its HMAC proves the command to the chip and the reply to us.
func (l *link) once(auth []byte, more ...tpm.AuthOption) tpm.Session {
	return tpm.HMAC(tpm.TPMAlgSHA256, nonceSize, append(l.salted(auth), more...)...)
}

const nonceSize = 16

// session returns a policy session of this kind, with an empty policy, that outlives the command.
func (l *link) session(kind sessionKind, auth []byte) (tpm.Session, error) {
	if s, ok := l.sessions[kind]; ok {
		return s, nil
	}
	if len(l.sessions) == 2 {
		for kind, s := range l.sessions {
			delete(l.sessions, kind)
			if err := l.flush(s.Handle()); err != nil {
				return nil, err
			}
		}
	}
	direction := tpm.EncryptIn
	if kind.reply {
		direction = tpm.EncryptInOut
	}
	s, _, err := tpm.PolicySession(l, tpm.TPMAlgSHA256, nonceSize, append(l.salted(auth), tpm.AESEncryption(128, direction))...)
	if err != nil {
		return nil, l.failed(err)
	}
	l.sessions[kind] = s
	return s, nil
}

// failed does for errors of go-tpm's sessions what run does for those of its commands.
func (l *link) failed(err error) error {
	_, err = run(l, func(transport.TPM, ...tpm.Session) (*struct{}, error) { return nil, err })
	return err
}

// stale reports whether err says that the chip no longer knows what we loaded: it was reset, or suspended, since.
func stale(err error) bool {
	var rc tpm.TPMRC
	return errors.As(err, &rc) && rc >= tpm.TPMRCReferenceH0 && rc <= tpm.TPMRCReferenceS6
}
