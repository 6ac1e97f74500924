package rack_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/securemem"
)

// TestThePINIsForTheApplianceAlone: whoever waits for it in a folder that others may write in gets nothing.
func TestThePINIsForTheApplianceAlone(t *testing.T) {
	t.Parallel()
	for mode, want := range map[os.FileMode]struct {
		err error
		got string
	}{0o700: {nil, "1234"}, 0o755: {nil, "1234"}, 0o777: {rack.ErrOpenFolder, ""}, 0o777 | os.ModeSticky: {rack.ErrOpenFolder, ""}, 0o770: {rack.ErrOpenFolder, ""}} {
		dir := folder(t)
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		desk := rack.DeskPath(filepath.Join(dir, "keyrack.sock"))
		got := sit(t, desk)
		pin, err := securemem.From([]byte("1234"))
		if err != nil {
			t.Fatal(err)
		}
		if err := rack.GivePIN(t.Context(), desk, pin); !errors.Is(err, want.err) {
			t.Errorf("%v: %v, want %v", mode, err, want.err)
		}
		pin.Free()
		if b := <-got; b != want.got {
			t.Errorf("%v: %q was given, want %q", mode, b, want.got)
		}
	}
}

// sit waits at a desk, says that the PIN is right, and returns what it was given.
func sit(t *testing.T, desk string) <-chan string {
	t.Helper()
	l, err := net.Listen("unix", desk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	got := make(chan string, 1)
	go func() {
		defer close(got)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c) // a client that leaves gives what it gave
		got <- string(b)
		_, _ = io.WriteString(c, "{}\n") // likewise
	}()
	return got
}
