package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/api"
)

// benchCommand is the load generator behind bench/RESULTS.md. It shares the
// machine with the appliance, so it is made to be light: no goroutine and no
// allocation of its own for a request.
var benchCommand = command{
	name: "bench", args: "[--op OP] [--size N] [--conns N] [--depth N] [--keys N] [--duration D]", short: "load an appliance and measure it",
	long: `
Loads the appliance with one operation, and prints what it did a second, how long
callers waited, and, where the operator's socket can be reached, the CPU time and
the heap allocations that each operation cost the appliance's process. Each
connection always has --depth requests in flight: with 1 a caller waits for each
answer, with more it pipelines. What is printed was measured after a warm-up of a
fifth of --duration. Ctrl-C ends the measurement early: what was measured so far is
printed, and the exit status is 130.

With --keys N each request is for a key drawn at random from N. More keys than the
appliance keeps ready (8192, or fewer where it may lock less memory) measure how it
opens those that it keeps sealed in memory, or reads them from its store.

It creates the keys that it needs and leaves them there: use keyrack dev. With
--existing it takes keys that are there, which must be enabled and of the default
spec.
An encryption makes a new message key once a minute only, so decrypt usually opens
under one that the appliance still has. With --distinct-salts N every ciphertext is
of a message key of its own, of up to 50000 keys, and old enough (it waits a minute,
for every 50000 of them) for the appliance to have forgotten it. The
first 16384 are decrypted before the measurement and fill the room for derived message
keys that an account has, so that all others are derived at each decryption; up to
8192, none is.`,
	examples: []string{
		"keyrack bench --op decrypt --conns 16 --duration 10s",
		"keyrack bench --depth 1",
	},
	flags: benchFlags,
}

// saltKeys is how many keys --distinct-salts uses at most: fewer than the
// appliance keeps sealed in memory (api.PackedKeys), or the store would be measured.
const (
	saltKeys  = 50_000
	mostSalts = 1_000_000
	mostKeys  = 1_000_000
)

// benchmark is what to measure.
type benchmark struct {
	sh           *shell
	ctx          context.Context // ends at Ctrl-C
	op           string
	size         int
	conns, depth int
	duration     time.Duration
	salts        int
	keys         int
	existing     bool
	forget       time.Duration // until the appliance forgets message keys it encrypted under
	socket       *string
}

// benchFlags declares the flags and acts.
func benchFlags(fs *flag.FlagSet) action {
	b := &benchmark{forget: api.MessageKeyLife + time.Second}
	fs.StringVar(&b.op, "op", "encrypt", "load it with `OP`: encrypt, decrypt or status")
	fs.IntVar(&b.size, "size", 32, "plaintexts have `N` bytes, 1 to 4096")
	fs.IntVar(&b.conns, "conns", 8, "open `N` connections, 1 to 1024")
	fs.IntVar(&b.depth, "depth", 64, "keep `N` requests in flight on each, 1 to 1024")
	fs.DurationVar(&b.duration, "duration", 5*time.Second, "measure for `TIME`, 10ms to 1h")
	fs.IntVar(&b.salts, "distinct-salts", 0, "decrypt `N` ciphertexts, each under a message key of its own, at most 1000000")
	fs.IntVar(&b.keys, "keys", 1, "encrypt under `N` keys, drawn at random, at most 1000000")
	fs.BoolVar(&b.existing, "existing", false, "use keys that the account has instead of new ones, the first --keys of them")
	b.socket = socketFlag(fs)
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		b.sh = sh
		if fault := b.fault(); fault != "" {
			return usagef("keyrack help bench", "bench: %s", fault)
		}
		ctx, stop := interruptible()
		defer stop()
		b.ctx = ctx
		r, err := b.run()
		sh.progress("")
		if r == nil {
			return b.ended(err)
		}
		if err := format.print(sh.out, r, r.text()); err != nil {
			return err
		}
		return b.ended(err)
	})
}

// fault returns what is wrong with the flags, or "".
func (b *benchmark) fault() string {
	switch {
	case b.op != "encrypt" && b.op != "decrypt" && b.op != "status":
		return fmt.Sprintf("--op is %q, want encrypt, decrypt or status", b.op)
	case b.size < 1 || b.size > api.MaxPlaintext:
		return fmt.Sprintf("--size is %d, want 1 to %d", b.size, api.MaxPlaintext)
	case b.conns < 1 || b.conns > api.MaxConnsPrincipal:
		return fmt.Sprintf("--conns is %d, want 1 to %d", b.conns, api.MaxConnsPrincipal)
	case b.depth < 1 || b.depth > api.Window:
		return fmt.Sprintf("--depth is %d, want 1 to %d", b.depth, api.Window)
	case b.duration < 10*time.Millisecond || b.duration > time.Hour:
		return fmt.Sprintf("--duration is %v, want 10ms to 1h", b.duration)
	case b.salts < 0 || b.salts > mostSalts:
		return fmt.Sprintf("--distinct-salts is %d, want at most %d", b.salts, mostSalts)
	case b.keys < 1 || b.keys > mostKeys:
		return fmt.Sprintf("--keys is %d, want 1 to %d", b.keys, mostKeys)
	case b.keys > 1 && b.op != "encrypt":
		return "--keys is for --op encrypt"
	case b.salts > 0 && b.duration > api.MessageKeyLife/2:
		return fmt.Sprintf("--duration is %v, want at most %v with --distinct-salts: later the appliance has room for message keys again", b.duration, api.MessageKeyLife/2)
	case b.salts > 0 && b.op != "decrypt":
		return "--distinct-salts is for --op decrypt"
	}
	return ""
}

// ended returns the error of a load: that it was interrupted, if it was.
func (b *benchmark) ended(err error) error {
	if errors.Is(err, errInterrupted) {
		return interrupted("run it again to its end; --duration makes it shorter", "%w", err)
	}
	return err
}

// benchResult is what bench prints as JSON. Times are in microseconds.
type benchResult struct {
	Operation       string
	Size            int `json:",omitempty"`
	Connections     int
	Depth           int
	DistinctSalts   int `json:",omitempty"`
	Keys            int `json:",omitempty"` // if more than one
	Seconds         float64
	Operations      int64
	OpsPerSecond    float64
	P50Micros       float64
	P99Micros       float64
	P999Micros      float64
	ClientCPUMicros float64 // of this process, for each operation
	*serverCost
}

// serverCost is what an operation cost the appliance's process.
type serverCost struct {
	ServerCPUMicros  float64
	AllocationsPerOp float64
	BytesPerOp       float64
	AuditDurability  string
}

// text returns the result for people.
func (r *benchResult) text() string {
	what := r.Operation
	if r.Size > 0 {
		what += fmt.Sprintf(" of %d bytes", r.Size)
	}
	if r.DistinctSalts > 0 {
		what += fmt.Sprintf(", %d message keys", r.DistinctSalts)
	}
	if r.Keys > 0 {
		what += fmt.Sprintf(", one of %d keys", r.Keys)
	}
	rows := [][2]string{
		{"load", fmt.Sprintf("%s, %d connections × %d in flight, %.1f s", what, r.Connections, r.Depth, r.Seconds)},
		{"operations", fmt.Sprintf("%.0f a second", r.OpsPerSecond)},
		{"latency", fmt.Sprintf("p50 %.3f ms, p99 %.3f ms, p99.9 %.3f ms", r.P50Micros/1e3, r.P99Micros/1e3, r.P999Micros/1e3)},
	}
	if r.serverCost == nil {
		rows = append(rows, [2]string{"appliance", "its cost is not known: KEYRACK_SOCKET is not set"})
	} else {
		rows = append(rows,
			[2]string{"appliance", fmt.Sprintf("%.2f CPU-µs and %.2f allocations (%.0f bytes) an operation", r.ServerCPUMicros, r.AllocationsPerOp, r.BytesPerOp)},
			[2]string{"audit", "every record " + r.AuditDurability + " before its answer left"})
	}
	return columns(append(rows, [2]string{"bench", fmt.Sprintf("%.2f CPU-µs an operation of its own", r.ClientCPUMicros)}))
}
