package main_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
)

// faults says at how many of the steps of init TestInitKilled kills it.
var faults = flag.String("faults", "some", "the steps of init at which it is killed: some, others each time, or all")

// victim is an init that is killed, in a folder and with a token that nothing else uses.
type victim struct {
	t      *testing.T
	name   string
	folder string // of everything
	dir    string // of the appliance
	token  string
	env    []string
	keys   func() int // measures how many keys the token holds
	killed bool
}

// newVictim returns one with a new folder. Its token is soft until another is set.
func newVictim(t *testing.T, name string) *victim {
	t.Helper()
	folder, err := os.MkdirTemp("", "kr") // not t.TempDir: a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	v := &victim{t: t, name: name, folder: folder, dir: filepath.Join(folder, "r"), token: "soft"}
	v.keys = func() int {
		info, err := os.Stat(filepath.Join(v.dir, "token"))
		if err != nil {
			t.Error(err)
			return 0
		}
		return int(info.Size())
	}
	return v
}

// pkcs11Victim gives a victim a SoftHSM.
func pkcs11Victim(t *testing.T, name string) *victim {
	t.Helper()
	v := newVictim(t, name)
	env := &testscript.Env{WorkDir: v.folder}
	v.token = newSoftHSM(t, env, "kr")
	v.env = env.Vars
	v.keys = func() int { // by another program; half a file that SoftHSM was killed in is no object to it
		tool := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", "kr", "--login", "--pin", "0815", "--list-objects")
		tool.Env = append(os.Environ(), v.env...)
		out, err := tool.Output()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return bytes.Count(out, []byte("Object;"))
	}
	return v
}

// command returns keyrack with arguments.
func (v *victim) command(ctx context.Context, args ...string) *exec.Cmd {
	if args[0] == "init" || args[0] == "serve" {
		args = append(args, "--token", v.token)
	}
	cmd := exec.CommandContext(ctx, "keyrack", append(args, "--dir", v.dir)...)
	cmd.Env = slices.Concat(os.Environ(), v.env)
	return cmd
}

// must runs a command that succeeds, and returns what it has printed.
func (v *victim) must(args ...string) string {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	cmd := v.command(ctx, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		v.t.Fatalf("%s: %v: %v\n%s%s", v.name, args, err, out, said.String())
	}
	return string(out)
}

// initTraced has init killed at the nth of its calls that write, in one thread of it or of its token's process.
func (v *victim) initTraced(n int) {
	v.t.Helper()
	const calls = "write,pwrite64,fsync,fdatasync,rename,renameat,unlink,unlinkat,mkdirat,ftruncate"
	at := v.command(v.t.Context(), "init")
	args := []string{"-f", "-qqq", "-o", "/dev/null", "-e", "trace=" + calls, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", calls, n), "keyrack"}
	cmd := exec.CommandContext(v.t.Context(), "strace", append(args, at.Args[1:]...)...)
	cmd.Env = at.Env
	v.judgeInit(cmd.CombinedOutput())
}

// judgeInit takes what an init that may have been killed has come to. Where only its token's process was killed it says so.
func (v *victim) judgeInit(said []byte, err error) {
	v.t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case !errors.As(err, &exit):
		v.t.Fatalf("%s: %v\n%s", v.name, err, said)
	case exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		v.killed = true
	case bytes.Contains(said, []byte("the process that holds the token has died")) && bytes.Contains(said, []byte("\nhint: ")):
		v.killed = true
	default:
		v.t.Errorf("%s: %v\n%s", v.name, err, said)
	}
}

// recover goes on after the kill: serve says what is there, or serves; init begins anew where there is no appliance. In the end there is
// one that works, with as many keys in its token as one that was made at once.
func (v *victim) recover(want int) {
	v.t.Helper()
	if _, err := os.Stat(filepath.Join(v.dir, "store.db")); err != nil {
		v.refuse()
		v.must("init")
	}
	v.work()
	if got := v.keys(); got != want {
		v.t.Errorf("%s: the token holds %d, and %d after an init that nothing cut off", v.name, got, want)
	}
	if left, _ := filepath.Glob(filepath.Join(v.dir, "*.new")); len(left) != 0 {
		v.t.Errorf("%s: left behind: %q", v.name, left)
	}
}

// refuse has serve say that there is no appliance, and what to do.
func (v *victim) refuse() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	out, err := v.command(ctx, "serve", "--listen", "127.0.0.1:0").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || strings.Count(string(out), "keyrack: ") != 1 ||
		!strings.Contains(string(out), "holds no appliance") || strings.Count(string(out), "\nhint: ") != 1 {
		v.t.Errorf("%s: serve: %v\n%s", v.name, err, out)
	}
}

// work has the appliance make a key and encrypt, then start again and decrypt.
func (v *victim) work() {
	v.t.Helper()
	secret := filepath.Join(v.folder, "secret")
	if err := os.WriteFile(secret, []byte("a secret\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
	var env, key string
	v.serving(func() {
		env = v.must("principal", "add", "ann", "--account", "111122223333", "--out", v.folder)
		for line := range strings.Lines(env) {
			if name, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "="); ok {
				v.env = append(v.env, name+"="+strings.Trim(value, "'"))
			}
		}
		key = strings.TrimSpace(v.client("key", "create"))
		v.client("encrypt", "--key", key, "--in", secret, "--out", secret+".enc")
	})
	v.serving(func() {
		if got := v.client("decrypt", "--in", secret+".enc"); got != "a secret\n" {
			v.t.Errorf("%s: decrypted %q", v.name, got)
		}
	})
}

// client runs a command of a client at the appliance's address.
func (v *victim) client(args ...string) string {
	v.t.Helper()
	for line := range strings.Lines(v.must("status")) {
		if address, ok := strings.CutPrefix(line, "address "); ok {
			v.env = append(v.env, "KEYRACK_ADDR="+strings.TrimSpace(address))
		}
	}
	cmd := exec.CommandContext(v.t.Context(), "keyrack", args...)
	cmd.Env = slices.Concat(os.Environ(), v.env)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		v.t.Fatalf("%s: %v: %v\n%s", v.name, args, err, said.String())
	}
	return string(out)
}

// serving does something while the appliance serves.
func (v *victim) serving(do func()) {
	v.t.Helper()
	cmd := v.command(v.t.Context(), "serve", "--listen", "127.0.0.1:0")
	var said lockedBuffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			v.t.Errorf("%s: serve ended with %v\n%s", v.name, err, said.String())
		}
	}()
	v.must("status", "--wait", "1m")
	do()
}

// steps returns the numbers at which to kill: all up to most, or few of them.
func steps(most int) (all []int) {
	if *faults == "all" {
		for n := 1; n <= most; n++ {
			all = append(all, n)
		}
		return all
	}
	return []int{1 + rand.IntN(most), 1 + rand.IntN(most)}
}

// TestInitKilled kills init at the calls in which it, or the process of its token, writes something.
func TestInitKilled(t *testing.T) {
	t.Parallel()
	for kind, fresh := range map[string]func(*testing.T, string) *victim{"soft": newVictim, "pkcs11": pkcs11Victim} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			clean, kills := fresh(t, kind+", whole"), 0
			clean.must("init")
			want := clean.keys()
			for _, n := range steps(100) {
				killed := false
				t.Run(fmt.Sprintf("call %d", n), func(t *testing.T) { // whose end removes its appliance
					v := fresh(t, fmt.Sprintf("%s, killed at call %d", kind, n))
					v.initTraced(n)
					v.recover(want)
					killed = v.killed
				})
				if !killed {
					break // no thread gets so far
				}
				kills++
			}
			t.Logf("%d kills", kills)
		})
	}
}

// TestInitKilledAtTPM kills init before and after its TPM's commands, the TPM with it or not.
func TestInitKilledAtTPM(t *testing.T) {
	t.Parallel()
	tpm := swtpm.Start(t)
	bus := tpm.Bus("unix")
	clean := tpmVictim(t, "tpm2, whole", tpm, bus)
	clean.must("init")
	want, commands := clean.keys(), bus.Count()
	kills := 0
	for _, n := range steps(commands) {
		for i, when := range []string{"before", "after", "in a power cut before", "in a power cut after"} {
			if *faults != "all" && i%2 != n%2 {
				continue
			}
			t.Run(fmt.Sprintf("%s command %d", when, n), func(t *testing.T) { // whose end removes its appliance
				v := tpmVictim(t, fmt.Sprintf("tpm2, killed %s command %d", when, n), tpm, bus)
				v.initAtTPM(tpm, bus, n, i%2 == 1, i >= 2)
				v.recover(want)
				if v.killed {
					kills++
				}
			})
		}
	}
	t.Logf("%d commands, %d kills", commands, kills)
}

// tpmVictim gives a victim the TPM behind a bus, cleared.
func tpmVictim(t *testing.T, name string, tpm *swtpm.TPM, bus *swtpm.Bus) *victim {
	t.Helper()
	bus.Set(nil)
	tpm.Clear()
	v := newVictim(t, name)
	v.token = "tpm2:path=" + bus.Path()
	v.keys = func() int { return len(tpm.Indexes()) }
	return v
}

// initAtTPM has init killed at the nth command of its TPM, after that was executed or before, with a power cut of the TPM or not.
func (v *victim) initAtTPM(tpm *swtpm.TPM, bus *swtpm.Bus, n int, after, powerCut bool) {
	v.t.Helper()
	cmd := v.command(v.t.Context(), "init")
	started := make(chan struct{})
	bus.Set(func(at int, command []byte, execute func([]byte) []byte) []byte {
		if at != n {
			if reply := execute(command); reply != nil {
				return reply
			}
			return []byte{}
		}
		if after {
			execute(command)
		}
		<-started
		_ = cmd.Process.Kill()
		if powerCut {
			tpm.Kill()
			tpm.Restart()
		}
		return []byte{}
	})
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	close(started)
	err := cmd.Wait()
	v.judgeInit(said.Bytes(), err)
	bus.Set(nil)
}
