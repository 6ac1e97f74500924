package tpm2_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

// device makes a character device that answers as the TPM, or not at all once silent is closed: a pseudo-terminal, of which our
// side is raw, so that a write is a message and a read takes one, as of /dev/tpmrm0.
func device(t *testing.T, v *swtpm.TPM, silent <-chan struct{}) (path string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	conn, err := master.SyscallConn() // not Fd, which would make reads that Close cannot end
	if err != nil {
		t.Fatal(err)
	}
	raw := &unix.Termios{Cflag: unix.CS8 | unix.CREAD}
	raw.Cc[unix.VMIN] = 1 // a read waits
	var n int
	var failed error
	if err := conn.Control(func(fd uintptr) {
		n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		failed = errors.Join(failed, unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0), unix.IoctlSetTermios(int(fd), unix.TCSETS, raw))
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	up, err := net.Dial("unix", v.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = up.Close() })
	path = fmt.Sprintf("/dev/pts/%d", n)
	hold, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0) // so that it stays while nobody has it open
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hold.Close() })
	go bridge(master, up, silent)
	return path
}

// bridge passes commands on and replies back, each in one piece.
func bridge(master *os.File, up net.Conn, silent <-chan struct{}) {
	b := make([]byte, 4096)
	for {
		n, err := master.Read(b)
		if err != nil {
			return
		}
		select {
		case <-silent:
			continue
		default:
		}
		if _, err = up.Write(b[:n]); err == nil {
			n, err = up.Read(b)
		}
		if err == nil {
			_, err = master.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// TestDevice: a TPM behind a device node does what one behind a socket does; one that hangs is given up.
func TestDevice(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	p := open(t, tpm2.Config{Path: device(t, swtpm.Start(t), silent)})
	k, blob := generate(t, p, hsm.PRFSHA256)
	signer, _ := generate(t, p, hsm.SignP256)
	want := prf(t, k, "input")
	if _, err := signer.(hsm.Signer).SignDigest(t.Context(), make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	again, err := p.Load(t.Context(), blob)
	if err != nil || string(prf(t, again, "input")) != string(want) {
		t.Errorf("loaded again: %v", err)
	}
	close(silent)
	p.SetTimeout(short)
	if _, err := p.Load(t.Context(), blob); !errors.Is(err, tpm2.ErrSilent) {
		t.Errorf("a device that hangs: %v", err)
	}
}
