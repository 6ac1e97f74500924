package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/pin"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/securemem"
)

// maxPIN bounds a PIN in bytes; tokens end before.
const maxPIN = 256

// askFor returns how to open a token with a PIN that init asks for: twice on a terminal, for a TPM takes whatever it is
// given to be the PIN from then on.
func (sh *shell) askFor(open rack.PINOpener) hsm.Opener {
	return func(ctx context.Context) (hsm.Provider, error) {
		first, err := sh.readPIN("PIN of the token: ")
		if err != nil {
			return nil, err
		}
		defer first.Free()
		if isTerminal(sh.in) {
			again, err := sh.readPIN("once more: ")
			if err != nil {
				return nil, err
			}
			defer again.Free()
			if !bytes.Equal(again.Bytes(), first.Bytes()) {
				return nil, hinted("begin again", "the PINs differ")
			}
		}
		return open(ctx, first)
	}
}

// readPIN returns the line that a person types where nobody sees it, or that standard input has, in locked memory that
// the caller frees.
func (sh *shell) readPIN(prompt string) (*securemem.Buffer, error) {
	if !isTerminal(sh.in) {
		return lineOf(sh.in)
	}
	f := sh.in.(*os.File)
	back, err := pin.Hush(f)
	if err != nil {
		return nil, err
	}
	defer back()
	fmt.Fprint(sh.err, prompt)
	defer fmt.Fprintln(sh.err)
	return lineOf(f)
}

// lineOf reads one line, or what there is to the end, byte by byte into locked memory: no buffer keeps a copy.
func lineOf(r io.Reader) (*securemem.Buffer, error) {
	room, err := securemem.New(maxPIN + 1)
	if err != nil {
		return nil, err
	}
	defer room.Free()
	b, n := room.Bytes(), 0
	for n < len(b) {
		got, err := r.Read(b[n : n+1])
		if got == 1 && b[n] == '\n' || errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the PIN: %w", err)
		}
		n += got
	}
	line := bytes.TrimSuffix(b[:n], []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, hinted("type it, or give one line on standard input: keyrack unlock --dir DIR < FILE", "no PIN was given")
	case len(line) > maxPIN:
		return nil, hinted("give the PIN alone", "a PIN has at most %d bytes", maxPIN)
	case bytes.IndexByte(line, 0) >= 0:
		return nil, hinted("give the PIN alone", "a PIN has no zero bytes")
	}
	return securemem.From(line)
}
