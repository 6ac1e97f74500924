// Package swtpm starts TPMs for tests: the program swtpm, of the Debian package of that name, one process and one state
// folder each, on a Unix socket that outlives the process, so that a TPM can lose its power and come back. Read TPM, Start and Bus first.
// A test that finds no swtpm fails: make setup installs it.
package swtpm

import (
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// TPM is one swtpm. Its methods are for the test's own goroutine, but for Kill and Restart, which any may call.
type TPM struct {
	t        testing.TB
	state    string
	path     string
	listener *os.File

	mu  sync.Mutex
	cmd *exec.Cmd // nil: without power
}

// Start starts a new TPM, manufactured, without owner authorization, and started up. It ends with the test.
func Start(t testing.TB) *TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "kr") // t.TempDir's names can be too long for a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	v := &TPM{t: t, state: dir, path: filepath.Join(dir, "s")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: v.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if v.listener, err = l.File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.Kill()
		_ = v.listener.Close()
	})
	v.Restart()
	return v
}

// Path returns the Unix socket on which the TPM serves one connection at a time.
func (v *TPM) Path() string { return v.path }

// Kill takes the power away at once. Connections end; new ones wait for Restart.
func (v *TPM) Kill() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cmd != nil {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
		v.cmd = nil
	}
}

// Restart gives power to a TPM that has none. Its persistent state is what it was.
func (v *TPM) Restart() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cmd != nil {
		return
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--server", "type=unixio,fd=3", "--tpmstate", "dir="+v.state,
		"--flags", "not-need-init,startup-clear", "--log", "file="+filepath.Join(v.state, "log")+",level=1")
	cmd.ExtraFiles = []*os.File{v.listener}
	if err := cmd.Start(); err != nil {
		v.t.Errorf("swtpm does not start; make setup installs it: %v", err)
		return
	}
	v.cmd = cmd
}

// Clear makes the TPM another one: new seeds, nothing in it.
func (v *TPM) Clear() {
	v.Kill()
	files, err := filepath.Glob(filepath.Join(v.state, "*"))
	if err != nil {
		v.t.Fatal(err)
	}
	for _, f := range files {
		if name := filepath.Base(f); name == "s" || name == "b" { // the sockets
			continue
		}
		if err := os.RemoveAll(f); err != nil {
			v.t.Fatal(err)
		}
	}
	v.Restart()
}

// Indexes returns the NV indexes that exist, asked on a connection of its own: no program may have the TPM open.
func (v *TPM) Indexes() (list []uint32) {
	v.t.Helper()
	c, err := net.Dial("unix", v.path)
	if err != nil {
		v.t.Fatal(err)
	}
	defer c.Close()
	// TPM2_GetCapability (Part 3, 30.2) of handles from 01000000 on, at most 256.
	if _, err := c.Write([]byte{0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7a, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0}); err != nil {
		v.t.Fatal(err)
	}
	reply := message(c)
	if len(reply) < 19 || binary.BigEndian.Uint32(reply[6:]) != 0 {
		v.t.Fatalf("TPM2_GetCapability answers %x", reply)
	}
	for rest := reply[19:]; len(rest) >= 4; rest = rest[4:] {
		list = append(list, binary.BigEndian.Uint32(rest))
	}
	return list
}
