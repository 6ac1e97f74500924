package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/protocol/client"
)

// envPeers names the folder with the keys of the clients that are a burden.
const envPeers = "KEYRACK_BENCH_PEERS"

// perPrincipal is how many idle connections come from one client.
const perPrincipal = 1000

// bad is an appliance that is attacked: keyrack serve in a folder of its own, on loopback.
type attacked struct {
	keyrack, dir string
	serve        *exec.Cmd
	worker       int // its process
	operator     *client.Client
	env          []string // of the well-behaved client
	duration     time.Duration
}

// hostile measures what strangers and idle clients cost, and returns the tables. What
// has to be quiet comes first.
func hostile(keyrack string, idle int, d time.Duration) ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s, commit %s, %s, %s, %v a row.\n\n", machine(), output("git", "describe", "--always", "--dirty"),
		time.Now().UTC().Format("2006-01-02"), runtime.Version(), d)
	for _, measure := range []func(*attacked, *bytes.Buffer, int) error{(*attacked).beside, (*attacked).memory} {
		if err := served(keyrack, idle, d, func(a *attacked) error { return measure(a, &out, idle) }); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// served runs f beside a fresh appliance.
func served(keyrack string, idle int, d time.Duration, f func(*attacked) error) (err error) {
	a := &attacked{keyrack: keyrack, duration: d}
	if a.dir, err = os.MkdirTemp("", "keyrack-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(a.dir)
	defer a.stop()
	if err := a.start(idle/perPrincipal + 1); err != nil {
		return err
	}
	return f(a)
}

// beside measures the well-behaved client beside all roles.
func (a *attacked) beside(out *bytes.Buffer, idle int) error {
	out.WriteString("| beside | ops/s | p50 ms | p99 ms | p99.9 ms | connections begun/s | ended by the appliance/s | server cores | server MiB |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range []struct {
		role, name string
		count      int
	}{
		{"", "nobody", 0},
		{"idle", fmt.Sprintf("%d idle connections", idle), idle},
		{"unknown", "handshakes by unknown keys", 0},
		{"half", "half handshakes", 0},
		{"garbage", "known clients that send what is no frame", 0},
	} {
		line, err := a.row(r.role, r.name, r.count)
		if err != nil {
			return fmt.Errorf("beside %s: %w", r.name, err)
		}
		fmt.Fprint(os.Stderr, line)
		out.WriteString(line)
	}
	return a.callers(out)
}

// start makes an appliance, some clients, and serves it.
func (a *attacked) start(peers int) error {
	ctx := context.Background()
	folder := filepath.Join(a.dir, "rack")
	if b, err := exec.Command(a.keyrack, "init", "--dir", folder).CombinedOutput(); err != nil {
		return fmt.Errorf("init: %w: %s", err, b)
	}
	a.serve = exec.Command(a.keyrack, "serve", "--dir", folder, "--listen", "127.0.0.1:0", "--max-connections", "16384")
	a.serve.Stdout, a.serve.Stderr = os.Stderr, os.Stderr
	if err := a.serve.Start(); err != nil {
		return err
	}
	var err error
	if a.operator, err = client.New(client.Config{Socket: rack.SocketPath(folder), Retries: 8}); err != nil {
		return err
	}
	status, err := client.Do(ctx, a.operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	for wait := 0; wait < 100 && (err != nil || status.Address == ""); wait++ {
		time.Sleep(100 * time.Millisecond)
		status, err = client.Do(ctx, a.operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	}
	if err != nil {
		return err
	}
	if a.worker, err = child(a.serve.Process.Pid); err != nil {
		return err
	}
	for i := range peers + 1 {
		name := fmt.Sprintf("peer-%d", i)
		hash, _, _, err := rack.NewClient(a.dir, name)
		if err != nil {
			return err
		}
		account := "444455556666"
		if i == peers { // the well-behaved one
			account = "111122223333"
		}
		if _, err := client.Do(ctx, a.operator, applianceapi.AddPrincipal, &applianceapi.AddPrincipalRequest{Name: name, Account: account, KeyHash: hash.String()}); err != nil {
			return err
		}
	}
	good := filepath.Join(a.dir, fmt.Sprintf("peer-%d", peers))
	a.env = append(os.Environ(), client.EnvAddr+"="+status.Address, client.EnvServerKey+"="+status.ServerKey,
		client.EnvCert+"="+good+".pem", client.EnvKey+"="+good+".key", client.EnvSocket+"="+rack.SocketPath(folder), envPeers+"="+a.dir)
	return nil
}

// certPaths returns where the certificate and key of peer i are.
func certPaths(dir string, i int) (cert, key string) {
	path := filepath.Join(dir, fmt.Sprintf("peer-%d", i))
	return path + ".pem", path + ".key"
}

func (a *attacked) stop() {
	if a.serve != nil && a.serve.Process != nil {
		a.serve.Process.Signal(syscall.SIGTERM)
		a.serve.Wait()
	}
}

// child returns the process that another one has started, by whichever of its threads.
func child(pid int) (int, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range threads {
		b, _ := os.ReadFile(path) // the thread may be gone
		if children := strings.Fields(string(b)); len(children) > 0 {
			return strconv.Atoi(children[0])
		}
	}
	return 0, fmt.Errorf("process %d has started none: %w", pid, err)
}

// resident returns the resident memory of the appliance, in MiB.
func (a *attacked) resident() float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.worker))
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return float64(kb) / 1024
}

// process is a peer that runs.
type process struct {
	cmd  *exec.Cmd
	in   io.Closer
	out  *bufio.Reader
	from time.Time
}

// begin starts a peer and waits until it is at work.
func (a *attacked) begin(role string, count int) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, "-role", role, "-count", strconv.Itoa(count)), from: time.Now()}
	p.cmd.Env, p.cmd.Stderr = a.env, os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	_, err = p.out.ReadString('\n')
	return p, err
}

// end ends a peer and returns what it did a second.
func (p *process) end() (attempts, ends float64, err error) {
	seconds := time.Since(p.from).Seconds()
	p.in.Close()
	var t map[string]float64
	err = json.NewDecoder(p.out).Decode(&t)
	p.cmd.Wait()
	return t["Attempts"] / seconds, t["Ends"] / seconds, err
}

// row measures the well-behaved client beside a role.
func (a *attacked) row(role, name string, count int) (string, error) {
	var p *process
	var err error
	if role != "" {
		if p, err = a.begin(role, count); err != nil {
			return "", err
		}
	}
	ctx := context.Background()
	from, err := client.Do(ctx, a.operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil {
		return "", err
	}
	at := time.Now()
	m, err := a.bench("--conns", "4", "--depth", "1")
	if err != nil {
		return "", err
	}
	to, err := client.Do(ctx, a.operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil {
		return "", err
	}
	cores := float64(to.CPUMicros-from.CPUMicros) / float64(time.Since(at).Microseconds())
	rates := "|  |"
	if p != nil {
		attempts, ends, err := p.end()
		if err != nil {
			return "", err
		}
		if rates = fmt.Sprintf("| %.0f | %.0f", attempts, ends); count > 0 {
			rates = "|  |"
		}
	}
	return fmt.Sprintf("| %s | %.0f | %.2f | %.2f | %.2f %s | %.2f | %.0f |\n", name, m.OpsPerSecond, m.P50Micros/1e3, m.P99Micros/1e3, m.P999Micros/1e3, rates, cores, a.resident()), nil
}

// bench runs the well-behaved client.
func (a *attacked) bench(args ...string) (m result, err error) {
	cmd := exec.Command(a.keyrack, append([]string{"bench", "--op", "encrypt", "--duration", a.duration.String(), "--output", "json"}, args...)...)
	cmd.Env, cmd.Stderr = a.env, os.Stderr
	b, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

// settle is how long the appliance is left alone before its memory is read: a collection
// comes by itself every two minutes, and what it frees goes back to the kernel after it.
const settle = 130 * time.Second

// memory measures what idle connections hold, and what is left of it.
func (a *attacked) memory(out *bytes.Buffer, idle int) error {
	before := a.resident()
	p, err := a.begin("idle", idle)
	if err != nil {
		return err
	}
	open := a.resident()
	time.Sleep(settle)
	settled := a.resident()
	if _, _, err := p.end(); err != nil {
		return err
	}
	time.Sleep(settle)
	_, err = fmt.Fprintf(out, "\n| memory of the appliance | MiB resident |\n|---|---:|\n| before | %.0f |\n| %d connections, just opened | %.0f |\n"+
		"| the same after %v: %.1f KiB a connection | %.0f |\n| %v after they have gone | %.0f |\n",
		before, idle, open, settle, (settled-before)*1024/float64(idle), settled, settle, a.resident())
	return err
}

// callers measures a thousand goroutines of one process that share one connection, beside
// the load generator, which needs none.
func (a *attacked) callers(out *bytes.Buffer) error {
	m, err := a.bench("--conns", "1", "--depth", "64")
	if err != nil {
		return err
	}
	p, err := a.begin("callers", 0)
	if err != nil {
		return err
	}
	time.Sleep(a.duration)
	calls, _, err := p.end()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\n| one connection, encrypt 32 B | ops/s | of the first |\n|---|---:|---:|\n| `keyrack bench --conns 1 --depth 64`, no goroutine a call | %.0f | 1 |\n"+
		"| 1,000 goroutines with `client.Do` | %.0f | %.2f |\n", m.OpsPerSecond, calls, calls/m.OpsPerSecond)
	return err
}
