package main_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"golang.org/x/sys/unix"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
)

// terminal is the side of a pseudo-terminal where a person would sit (pty(7)).
type terminal struct {
	t      *testing.T
	master *os.File
	mu     sync.Mutex
	seen   bytes.Buffer  // guarded by mu
	more   chan struct{} // has a value when there is more, closed at the end
}

// onTerminal starts keyrack with a terminal as its standard error, and its
// controlling one. Its standard output is out, or the terminal, too, if that is nil.
func onTerminal(t *testing.T, env []string, out io.Writer, args ...string) (*terminal, *exec.Cmd) {
	t.Helper()
	term, side := newTerminal(t)
	cmd := exec.Command("keyrack", args...)
	cmd.Env = append(os.Environ(), env...)
	if out == nil {
		out = side
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, out, side
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	side.Close()
	go term.read()
	return term, cmd
}

// newTerminal opens both sides of a pseudo-terminal.
func newTerminal(t *testing.T) (*terminal, *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	side, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &terminal{t: t, master: master, more: make(chan struct{}, 1)}, side
}

// read takes what is shown until the last process with the terminal is gone.
func (x *terminal) read() {
	defer close(x.more)
	b := make([]byte, 4096)
	for {
		n, err := x.master.Read(b)
		if err != nil { // EIO: nobody is on the other side
			return
		}
		x.mu.Lock()
		x.seen.Write(b[:n])
		x.mu.Unlock()
		select {
		case x.more <- struct{}{}:
		default:
		}
	}
}

// screen returns what was shown so far.
func (x *terminal) screen() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen.String()
}

// until waits for words on the screen.
func (x *terminal) until(words string) {
	x.t.Helper()
	deadline := time.After(time.Minute)
	for !strings.Contains(x.screen(), words) {
		select {
		case _, open := <-x.more:
			if !open && !strings.Contains(x.screen(), words) {
				x.t.Fatalf("it ended without %q: %q", words, x.screen())
			}
		case <-deadline:
			x.t.Fatalf("%q is not shown: %q", words, x.screen())
		}
	}
}

// press types a key.
func (x *terminal) press(key string) {
	x.t.Helper()
	if _, err := x.master.WriteString(key); err != nil {
		x.t.Fatal(err)
	}
}

const ctrlC = "\x03"

// TestProgressIsForTerminals shows how far long work is to who looks on, and to
// nobody else.
func TestProgressIsForTerminals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	r.CreateKey()
	for _, args := range [][]string{{"audit", "verify"}, {"audit", "search", r.Dir + "/audit", "--limit", "1"}, {"audit", "search"}} {
		var out bytes.Buffer
		term, cmd := onTerminal(t, environment(r), &out, args...)
		err := cmd.Wait()
		term.until(" records")
		if err != nil || !strings.Contains(term.screen(), "\r\x1b[K") || strings.Contains(out.String(), "\x1b") || out.Len() == 0 {
			t.Errorf("%v: %v, shown %q, printed %q", args, err, term.screen(), out.String())
		}
		var piped bytes.Buffer
		cmd = exec.Command("keyrack", args...)
		cmd.Env, cmd.Stderr = append(os.Environ(), environment(r)...), &piped
		if err := cmd.Run(); err != nil || strings.ContainsAny(piped.String(), "\r\x1b%") {
			t.Errorf("%v: %v, into a pipe: %q", args, err, piped.String())
		}
	}
}

// TestCtrlCEndsBench prints what was measured until then.
func TestCtrlCEndsBench(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	term, cmd := onTerminal(t, environment(racktest.Start(t)), &out, "bench", "--op", "status", "--conns", "1", "--depth", "1", "--duration", "30s")
	term.until("measuring: ")
	term.press(ctrlC)
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 130 || !strings.Contains(out.String(), "\noperations ") {
		t.Errorf("%v, printed %q", cmd.ProcessState, out.String())
	}
	term.until("keyrack: interrupted: measuring for ")
}

// TestCtrlCEndsSearch holds a search up by not reading what it prints.
func TestCtrlCEndsSearch(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for len(r.Records()) < 1000 { // more than a pipe holds, written one by one: the search looks up after each
		if status, _, stderr := keyrack.Run(asMap(r), "bench", "--op", "status", "--conns", "1", "--depth", "1", "--duration", "200ms"); status != 0 {
			t.Fatal(stderr)
		}
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	term, cmd := onTerminal(t, environment(r), in, "audit", "search", r.Dir+"/audit", "--output", "json")
	in.Close()
	term.until(" records")
	term.press(ctrlC)
	term.until("^C") // echoed when it was delivered
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("%v, shown %q", cmd.ProcessState, term.screen())
	}
	term.until("none of it is proven")
	term.until("interrupted: the search is not over")
}

// TestSecretsAreNotForTerminals prints text that was asked for, and no key: neither
// in clear nor in base64.
func TestSecretsAreNotForTerminals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	dir := t.TempDir()
	key := strings.TrimSpace(r.CreateKey())
	encrypted := func(name, plaintext string) string {
		path := dir + "/" + name
		if err := os.WriteFile(path, []byte(plaintext), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _, stderr := keyrack.Run(asMap(r), "encrypt", "--key", key, "--in", path, "--out", path+".enc"); status != 0 {
			t.Fatal(stderr)
		}
		return path + ".enc"
	}
	text, binary := encrypted("text", "über\tall\nattack at dawn\n"), encrypted("binary", "key \x01\x02\xff")
	for _, c := range []struct {
		args  []string
		shown string
		want  int
	}{
		{[]string{"decrypt", "--in", text}, "attack at dawn", 0},
		{[]string{"decrypt", "--in", binary}, "keyrack: the plaintext is not text, and standard output is a terminal", 2},
		{[]string{"decrypt", "--in", binary, "--output", "json"}, "keyrack: the plaintext is not text, and standard output is a terminal", 2},
		{[]string{"encrypt", "--key", key, "--in", text}, "keyrack: a ciphertext is binary, and standard output is a terminal", 2},
		{[]string{"re-encrypt", "--key", key, "--in", text}, "keyrack: a ciphertext is binary, and standard output is a terminal", 2},
		{[]string{"datakey", "--key", key}, "keyrack: a ciphertext is binary, and standard output is a terminal", 2},
		{[]string{"encrypt", "--key", key, "--in", text, "--output", "json"}, "CiphertextBlob", 0},
		{[]string{"random"}, "keyrack: --out is a terminal or a device", 2},
		{[]string{"datakey", "--key", key, "--out", dir + "/k", "--out-plaintext", "-"}, "keyrack: --out-plaintext is a terminal or a device", 2},
		{[]string{"call", "kms", "GenerateRandom", "--number-of-bytes", "32"}, "keyrack: the answer has secret bytes, and standard output is a terminal", 2},
		{[]string{"call", "kms", "Decrypt", "--ciphertext-blob", "@" + text, "--output", "json"}, "keyrack: the answer has secret bytes, and standard output is a terminal", 2},
		{[]string{"call", "kms", "Encrypt", "--key-id", key, "--plaintext", "@" + text}, "CiphertextBlob", 0},
	} {
		term, cmd := onTerminal(t, environment(r), nil, c.args...)
		cmd.Wait()
		term.until(c.shown)
		if cmd.ProcessState.ExitCode() != c.want || c.want != 0 && strings.Contains(term.screen(), "\x02") {
			t.Errorf("%v: %v, shown %q", c.args, cmd.ProcessState, term.screen())
		}
	}
	for _, rec := range r.Records() {
		if rec.Op == kmsapi.GenerateRandom.Number {
			t.Error("bytes were made that nobody may see")
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := exec.Command("keyrack", "decrypt", "--in", binary)
	cmd.Env, cmd.Stdout = append(os.Environ(), environment(r)...), null
	if err := cmd.Run(); err != nil {
		t.Errorf("to /dev/null: %v", err)
	}
}

// TestNamesLeaveNoMeterBehind: an error begins its own line.
func TestNamesLeaveNoMeterBehind(t *testing.T) {
	t.Parallel()
	term, cmd := onTerminal(t, environment(racktest.Start(t)), nil, "audit", "search", "--who", "nobody")
	cmd.Wait()
	term.until("registered as")
	if shown := term.screen(); strings.Contains(shown, ")keyrack:") {
		t.Errorf("shown %q", shown)
	}
}

// TestReadingATerminalIsSaid, and how it is ended.
func TestReadingATerminalIsSaid(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	path := t.TempDir() + "/typed.enc"
	term, cmd := onTerminal(t, environment(r), nil, "encrypt", "--key", strings.TrimSpace(r.CreateKey()), "--out", path)
	term.until("reading standard input: Ctrl-D ends it")
	term.press("attack at dawn\n\x04")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, term.screen())
	}
	if status, plaintext, stderr := keyrack.Run(asMap(r), "decrypt", "--in", path); status != 0 || plaintext != "attack at dawn\n" {
		t.Errorf("%q, %s", plaintext, stderr)
	}
}

// TestMeterText says what a person wants to know, as far as it is known.
func TestMeterText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		did, done, total int64
		since            time.Duration
		want             string
	}{
		{5, 5, 0, 0, "5 records"},
		{5, 5, 10, 0, "5 of 10 records (50%)"},
		{100, 200, 1000, 2 * time.Second, "200 of 1000 records (20%), 50 a second, 17s left"},
		{100, 1200, 1000, 2 * time.Second, "1200 of 1000 records (100%), 50 a second"},
		{0, 0, 1000, 2 * time.Second, "0 of 1000 records (0%)"},
		{1, 1, 1 << 40, 2 * time.Second, "1 of 1099511627776 records (0%), 0 a second"},
	} {
		if got := keyrack.MeterText("records", c.did, c.done, c.total, c.since); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
