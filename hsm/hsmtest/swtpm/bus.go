package swtpm

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
)

// Bus stands between a program and its TPM, as wires do: it records all that passes, and can tamper with it. It serves
// one connection at a time.
type Bus struct {
	tpm      *TPM
	listener net.Listener

	mu      sync.Mutex
	hook    Hook
	count   int
	traffic []byte
}

// Hook decides about the nth command since Set, counted from 1. tpm has the TPM execute a command and returns its reply, or nil when the TPM
// is gone. What Hook returns is answered; nil is silence, an empty reply breaks the connection.
type Hook func(n int, command []byte, tpm func([]byte) []byte) []byte

// Bus returns a new Bus before the TPM, on a Unix socket or, for network tcp, on a port of the loopback.
func (v *TPM) Bus(network string) *Bus {
	v.t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(v.state, "b")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		v.t.Fatal(err)
	}
	b := &Bus{tpm: v, listener: l}
	v.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.serve(c)
		}
	}()
	return b
}

// Path returns where to connect: a socket's path, or HOST:PORT.
func (b *Bus) Path() string { return b.listener.Addr().String() }

// Set puts hook, or none, into the way of the commands that follow.
func (b *Bus) Set(hook Hook) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hook, b.count = hook, 0
}

// Count returns how many commands came since Set.
func (b *Bus) Count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

// Traffic returns every byte that passed so far, in both directions.
func (b *Bus) Traffic() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]byte(nil), b.traffic...)
}

// serve passes the commands of one connection on until either side ends it.
func (b *Bus) serve(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("unix", b.tpm.Path())
	if err != nil {
		return
	}
	defer up.Close()
	for {
		command := message(c)
		if command == nil {
			return
		}
		reply := b.pass(command, func(command []byte) []byte {
			if _, err := up.Write(command); err != nil {
				return nil
			}
			return message(up)
		})
		if reply == nil {
			_, _ = io.Copy(io.Discard, c) // until the other side gives up
			return
		}
		if _, err := c.Write(reply); err != nil || len(reply) == 0 {
			return
		}
	}
}

// pass counts and records a command, and has it executed or tampered with.
func (b *Bus) pass(command []byte, tpm func([]byte) []byte) []byte {
	b.mu.Lock()
	b.count++
	n, hook := b.count, b.hook
	b.traffic = append(b.traffic, command...)
	b.mu.Unlock()
	var reply []byte
	if hook != nil {
		reply = hook(n, command, tpm)
	} else if reply = tpm(command); reply == nil {
		reply = []byte{} // the TPM is gone, and so is the connection
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.traffic = append(b.traffic, reply...)
	return reply
}

// message reads one command or reply, whose size stands at offset 2, or returns nil.
func message(r io.Reader) []byte {
	head := make([]byte, 10)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < 10 || size > 4096 {
		return nil
	}
	rest := make([]byte, size-10)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil
	}
	return append(head, rest...)
}
