package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/internal/racktest"
)

// A PIN that an operator gives, and one that is wrong. Nothing else in an appliance reads so.
const (
	askedPIN = "pin-47-11-qx-zebra"
	wrongPIN = "pin-47-11-qx-wrong"
)

// TestUnlockWithPIN makes and runs appliances whose PIN is in nobody's files: it is given on standard input. A start waits for
// it, locked; a wrong one is told once and never tried again, also not by the worker that follows a killed one; and no command
// line, environment, log or file has it.
func TestUnlockWithPIN(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T, dir string) (spec string, env []string, wrong string){
		"tpm2": func(t *testing.T, _ string) (string, []string, string) {
			return "tpm2:path=" + swtpm.Start(t).Path() + ";pin-ask=yes", nil, "tpm2: PIN refused: it is wrong; wrong tries left before the chip locks itself: 2"
		},
		"pkcs11": func(t *testing.T, dir string) (string, []string, string) {
			spec, env := softHSMWithPIN(t, dir, askedPIN)
			return spec + ";pin-ask=yes", env, "the token refuses the PIN"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			spec, env, wrong := start(t, dir)
			a := &asked{t: t, rack: filepath.Join(dir, "rack"), spec: spec, env: append(os.Environ(), env...)}
			a.must(askedPIN, "init", "--dir", a.rack, "--token", spec)
			a.serve()
			a.waits()
			a.fails("", "no PIN was given", "unlock", "--dir", a.rack)
			a.fails(wrongPIN, wrong, "unlock", "--dir", a.rack)
			a.waits()
			a.killWorker()
			a.waits() // the next one has no PIN, and tries none
			a.must(askedPIN, "unlock", "--dir", a.rack)
			if out := a.must("", "status", "--dir", a.rack); !strings.Contains(out, "UNLOCKED") {
				t.Errorf("after the right PIN: %s", out)
			}
			a.nowhere()
			a.must("", "lock", "--dir", a.rack)
			a.waits()
			a.must(askedPIN, "unlock", "--dir", a.rack)
			a.stop()
			a.nowhere()
			if n := strings.Count(a.log.String(), "was not opened with the PIN"); n != 1 {
				t.Errorf("%d wrong PINs in the log, one was given:\n%s", n, &a.log)
			}
		})
	}
}

// asked is an appliance whose PIN is asked for.
type asked struct {
	t          *testing.T
	rack, spec string
	env        []string
	cmd        *exec.Cmd
	log        lockedBuffer
	said       bytes.Buffer // by all commands
}

// command runs one with a line on standard input.
func (a *asked) command(line string, args ...string) (string, error) {
	cmd := exec.CommandContext(a.t.Context(), "keyrack", args...)
	cmd.Env = a.env
	if line != "" {
		cmd.Stdin = strings.NewReader(line + "\n")
	}
	out, err := cmd.CombinedOutput()
	a.said.Write(out)
	return string(out), err
}

func (a *asked) must(line string, args ...string) string {
	a.t.Helper()
	out, err := a.command(line, args...)
	if err != nil {
		a.t.Fatalf("keyrack %v: %v\n%s\n%s", args, err, out, &a.log)
	}
	return out
}

func (a *asked) fails(line, says string, args ...string) {
	a.t.Helper()
	out, err := a.command(line, args...)
	if err == nil || !strings.Contains(out, says) || !strings.Contains(out, "\nhint: ") {
		a.t.Errorf("keyrack %v: %v\n%s\nwant %q and a hint", args, err, out, says)
	}
}

// serve starts the appliance.
func (a *asked) serve() {
	a.t.Helper()
	a.cmd = exec.Command("keyrack", "serve", "--dir", a.rack, "--token", a.spec, "--listen", racktest.Loopback())
	a.cmd.Env = a.env
	a.cmd.Stdout, a.cmd.Stderr = &a.log, &a.log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = a.cmd.Process.Kill(); _ = a.cmd.Wait() })
}

// waits waits until the appliance says that it waits.
func (a *asked) waits() {
	a.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		out, err := a.command("", "status", "--dir", a.rack)
		if err == nil && strings.Contains(out, "LOCKED") && strings.Contains(out, "waits for the PIN") {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("the appliance does not wait for its PIN: %v\n%s\n%s", err, out, &a.log)
		}
	}
}

// killWorker kills the process that waits, and returns when it is gone.
func (a *asked) killWorker() {
	a.t.Helper()
	for _, pid := range childrenOf(a.t, a.cmd.Process.Pid) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			a.t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
				return
			}
		}
	}
	a.t.Fatal("the worker does not die")
}

// stop ends the appliance in order.
func (a *asked) stop() {
	a.t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	if err := a.cmd.Wait(); err != nil {
		a.t.Errorf("serve ended with %v:\n%s", err, &a.log)
	}
}

// nowhere looks for both PINs in what was printed, in every file, and in the command lines and environments of all processes
// of the appliance.
func (a *asked) nowhere() {
	a.t.Helper()
	places := map[string][]byte{"the log": []byte(a.log.String()), "what commands said": a.said.Bytes()}
	err := filepath.WalkDir(a.rack, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			places[path], err = os.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) { // a file that the appliance has renamed meanwhile: it has its other name
			return nil
		}
		return err
	})
	if err != nil {
		a.t.Fatal(err)
	}
	looked := 0
	for _, pid := range familyOf(a.t, a.cmd.Process.Pid) {
		for _, name := range []string{"cmdline", "environ"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, name)
			if b, err := os.ReadFile(path); err == nil { // else it has ended
				places[path] = b
				looked++
			}
		}
	}
	if a.cmd.ProcessState == nil && looked < 4 {
		a.t.Errorf("only %d files of processes could be read", looked)
	}
	for place, b := range places {
		if bytes.Contains(b, []byte(askedPIN)) || bytes.Contains(b, []byte(wrongPIN)) {
			a.t.Errorf("the PIN is in %s", place)
		}
	}
}

// familyOf returns a process and all that it has started, and they.
func familyOf(t *testing.T, pid int) []int {
	t.Helper()
	all := []int{pid}
	for _, child := range childrenOf(t, pid) {
		all = append(all, familyOf(t, child)...)
	}
	return all
}

// childrenOf returns what a process has started (proc_tid_children(5)): any of its threads.
func childrenOf(t *testing.T, pid int) (all []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list) // a thread that is gone has none
		for _, word := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, child)
		}
	}
	return all
}

// softHSMWithPIN makes a token with that PIN in a SoftHSM of its own, and returns its specification and the environment by which
// the module finds it.
func softHSMWithPIN(t *testing.T, dir, pin string) (spec string, env []string) {
	t.Helper()
	conf, tokens := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "tokens")
	if err := errors.Join(os.Mkdir(tokens, 0o700), os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nlog.level = ERROR\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	env = []string{"SOFTHSM2_CONF=" + conf}
	cmd := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "asked", "--so-pin", "so-pin", "--pin", pin)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util of the package softhsm2 (make setup installs it): %v\n%s", err, out)
	}
	return "pkcs11:module=/usr/lib/softhsm/libsofthsm2.so;token=asked", env
}
