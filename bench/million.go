package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/protocol/client"
)

// crowded is an appliance with very many keys, in a folder that is kept from one measurement to the next: making them takes minutes.
type crowded struct {
	keyrack, dir string
	keys         int
	duration     time.Duration
	serve        *exec.Cmd
	worker       int // its process
	config       client.Config
	client       *client.Client
	ids          []api.KeyRef
}

// warm is for how long random keys are used before they count as used: as long as it takes until most were.
const warm = 2 * time.Minute

// million measures an appliance with so many keys, and returns the tables.
func million(keyrack, dir string, keys int, d time.Duration) ([]byte, error) {
	m := &crowded{keyrack: keyrack, dir: dir, keys: keys, duration: d}
	if err := m.fill(); err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := m.start(); err != nil {
		return nil, err
	}
	defer m.stop()
	defer m.client.Close()
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s, commit %s, %s, %s, %v a row.\n\n", machine(), output("git", "describe", "--always", "--dirty"), time.Now().UTC().Format("2006-01-02"), runtime.Version(), d)
	fmt.Fprintf(&out, "| %d keys | |\n|---|---:|\n", keys)
	if err := m.first(); err != nil {
		return nil, err
	}
	fmt.Fprintf(&out, "| from the start of `keyrack serve` to the answer to the first Encrypt | %.2f s |\n", time.Since(begun).Seconds())
	fmt.Fprintf(&out, "| resident then | %.0f MiB |\n", m.resident())
	if err := m.list(&out); err != nil {
		return nil, err
	}
	if err := m.describe(&out); err != nil {
		return nil, err
	}
	err := m.encrypt(&out)
	return out.Bytes(), err
}

// fill makes what is not there: the appliance, its client, its keys.
func (m *crowded) fill() error {
	folder := filepath.Join(m.dir, "rack")
	if _, err := os.Stat(folder); err == nil {
		return nil
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	if b, err := exec.Command(m.keyrack, "init", "--dir", folder).CombinedOutput(); err != nil {
		return fmt.Errorf("init: %w: %s", err, b)
	}
	hash, _, _, err := rack.NewClient(m.dir, "bench")
	if err != nil {
		return err
	}
	if err := m.start(); err != nil {
		return err
	}
	defer m.stop()
	operator, err := client.New(client.Config{Socket: rack.SocketPath(folder)})
	if err != nil {
		return err
	}
	defer operator.Close()
	if _, err := client.Do(context.Background(), operator, applianceapi.AddPrincipal, &applianceapi.AddPrincipalRequest{Name: "bench", Account: "111122223333", KeyHash: hash.String()}); err != nil {
		return err
	}
	_, err = m.bench("--keys", fmt.Sprint(m.keys), "--duration", "100ms")
	return err
}

// start begins to serve, and returns when the network is open.
func (m *crowded) start() error {
	folder := filepath.Join(m.dir, "rack")
	m.serve = exec.Command(m.keyrack, "serve", "--dir", folder, "--listen", "127.0.0.1:0", "--max-keys-per-account", "2000000")
	m.serve.Stderr = os.Stderr
	if err := m.serve.Start(); err != nil {
		return err
	}
	operator, err := client.New(client.Config{Socket: rack.SocketPath(folder), Retries: -1})
	if err != nil {
		return err
	}
	defer operator.Close()
	var status *applianceapi.GetStatusResponse
	for deadline := time.Now().Add(time.Minute); status == nil || status.Address == ""; time.Sleep(time.Millisecond) {
		if status, err = client.Do(context.Background(), operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{}); time.Now().After(deadline) {
			return errors.Join(err, errors.New("the appliance does not open the network"))
		}
	}
	if m.worker, err = child(m.serve.Process.Pid); err != nil {
		return err
	}
	good := filepath.Join(m.dir, "bench")
	env := map[string]string{client.EnvAddr: status.Address, client.EnvServerKey: status.ServerKey, client.EnvCert: good + ".pem", client.EnvKey: good + ".key", client.EnvSocket: rack.SocketPath(folder)}
	for name, value := range env {
		os.Setenv(name, value)
	}
	if m.config, err = client.FromEnv(func(name string) string { return env[name] }); err != nil {
		return err
	}
	m.client, err = client.New(m.config)
	return err
}

func (m *crowded) stop() {
	m.serve.Process.Signal(syscall.SIGTERM)
	m.serve.Wait()
}

// resident returns the MiB of memory that the worker has.
func (m *crowded) resident() float64 { return (&attacked{worker: m.worker}).resident() }

// bench runs keyrack bench.
func (m *crowded) bench(args ...string) (r result, err error) {
	cmd := exec.Command(m.keyrack, append([]string{"bench", "--output", "json"}, args...)...)
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// first uses one key of those in the first page.
func (m *crowded) first() error {
	page, err := client.Do(context.Background(), m.client, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: 1})
	if err != nil {
		return err
	}
	_, err = client.Do(context.Background(), m.client, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(page.Keys[0].KeyId)), Plaintext: api.Secret("x")})
	return err
}

// list reads all pages.
func (m *crowded) list(out *bytes.Buffer) error {
	request := &kmsapi.ListKeysRequest{Limit: 1000}
	var waits []time.Duration
	for begun := time.Now(); ; begun = time.Now() {
		page, err := client.Do(context.Background(), m.client, kmsapi.ListKeys, request)
		if err != nil {
			return err
		}
		waits = append(waits, time.Since(begun))
		for _, k := range page.Keys {
			m.ids = append(m.ids, api.ParseKeyRef([]byte(k.KeyId)))
		}
		if request.Marker = page.NextMarker; !page.Truncated {
			break
		}
	}
	slices.Sort(waits)
	fmt.Fprintf(out, "| ListKeys, a page of 1,000 of %d: median, slowest | %.1f ms, %.1f ms |\n", len(m.ids), millis(waits[len(waits)/2]), millis(waits[len(waits)-1]))
	return nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// describe asks for keys at random, as 32 callers who wait for each answer.
func (m *crowded) describe(out *bytes.Buffer) error {
	var mu sync.Mutex
	var waits []time.Duration
	var failed error
	var wg sync.WaitGroup
	for caller := range 32 {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for at, end := caller, time.Now().Add(m.duration); err == nil && time.Now().Before(end); {
				at = (at*1_103_515_245 + 12_345) & (1<<31 - 1)
				begun := time.Now()
				_, err = client.Do(context.Background(), m.client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: m.ids[at%len(m.ids)]})
				mine = append(mine, time.Since(begun))
			}
			mu.Lock()
			defer mu.Unlock()
			waits, failed = append(waits, mine...), errors.Join(failed, err)
		})
	}
	wg.Wait()
	if failed != nil {
		return failed
	}
	slices.Sort(waits)
	fmt.Fprintf(out, "| DescribeKey of random keys, 32 callers: answers a second, median, p99 | %.0f, %.2f ms, %.2f ms |\n",
		float64(len(waits))/m.duration.Seconds(), millis(waits[len(waits)/2]), millis(waits[len(waits)*99/100]))
	return nil
}

// encrypt compares a hot key with random ones: those that were not used since the start, and all after a while.
func (m *crowded) encrypt(out *bytes.Buffer) error {
	out.WriteString("\n| encrypt 32 B, 8 × 64 | ops/s | of the first | server CPU-µs/op | p99 ms | server MiB |\n|---|---:|---:|---:|---:|---:|\n")
	var hot float64
	for _, row := range []struct {
		name string
		keys int
		wait time.Duration
	}{{"one key", 1, 0}, {"random keys, just started", m.keys, 0}, {"random keys", m.keys, warm}, {"one key", 1, 0}} {
		args := []string{"--existing", "--keys", fmt.Sprint(row.keys), "--conns", "8", "--depth", "64"}
		if row.wait > 0 {
			if _, err := m.bench(append(args, "--duration", row.wait.String())...); err != nil {
				return err
			}
		}
		r, err := m.bench(append(args, "--duration", m.duration.String())...)
		if err != nil {
			return err
		}
		if hot == 0 {
			hot = r.OpsPerSecond
		}
		fmt.Fprintf(out, "| %s | %.0f | %.2f | %.2f | %.2f | %.0f |\n", row.name, r.OpsPerSecond, r.OpsPerSecond/hot, r.ServerCPUMicros, r.P99Micros/1000, m.resident())
		fmt.Fprint(os.Stderr, out.String()[bytes.LastIndexByte(out.Bytes()[:out.Len()-1], '\n')+1:])
	}
	return nil
}
