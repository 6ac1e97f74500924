// Command bench measures the appliance as its users meet it: it starts
// `keyrack dev` with an audit log that syncs before every reply, loads it from
// another process with `keyrack bench`, three times for each row, and writes the
// medians into RESULTS.md. Run it on a quiet machine: `make results`. With -hostile it
// measures one well-behaved client of `keyrack serve` beside a crowd and attackers, which
// are processes of their own (peers.go), and what idle connections hold of memory. With
// -million it measures an appliance with a million keys (million.go).
//
// What is compared with another commit must come from one session on one
// machine; the CPU time and the allocations of the server are the figures that
// survive a noisy one.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// row is one line of the table. goal is the most server CPU-µs an operation
// may cost; 0 = only reported.
type row struct {
	op           string
	size         int
	conns, depth int
	salts, keys  int // 0 = one message key, one key
	goal         float64
}

var rows = []row{
	{"encrypt", 32, 8, 64, 0, 0, 4},
	{"decrypt", 32, 8, 64, 0, 0, 4},
	{"encrypt", 32, 8, 32, 0, 0, 6},
	{"decrypt", 32, 8, 32, 0, 0, 6},
	{"encrypt", 32, 64, 1, 0, 0, 22},
	{"decrypt", 32, 64, 1, 0, 0, 22},
	{"encrypt", 32, 8, 1, 0, 0, 55},
	{"decrypt", 32, 8, 1, 0, 0, 55},
	{"encrypt", 32, 1, 1, 0, 0, 0},
	{"encrypt", 4096, 8, 8, 0, 0, 20},
	{"decrypt", 4096, 8, 8, 0, 0, 0},
	{"decrypt", 32, 8, 64, 100_000, 0, 0},
	{"encrypt", 32, 8, 64, 0, 100_000, 0},
}

// result is what `keyrack bench --output json` prints, as far as it is used.
type result struct {
	OpsPerSecond     float64
	P50Micros        float64
	P99Micros        float64
	P999Micros       float64
	ServerCPUMicros  float64
	AllocationsPerOp float64
	BytesPerOp       float64
	DistinctSalts    int
}

func main() {
	log.SetFlags(0)
	keyrack := flag.String("keyrack", "bin/keyrack", "the binary to measure")
	duration := flag.Duration("duration", 5*time.Second, "of each run")
	runs := flag.Int("runs", 3, "of each row; the median counts")
	out := flag.String("write", "bench/RESULTS.md", "file with the markers of the table")
	attack := flag.Bool("hostile", false, "measure a crowd and attacks, instead of the table of operations")
	idle := flag.Int("idle", 10_000, "idle connections of -hostile")
	crowd := flag.String("million", "", "measure an appliance with very many keys instead, in this `FOLDER`, which is kept for the next time")
	keys := flag.Int("keys", 1_000_000, "keys of -million")
	role := flag.String("role", "", "be a part of -hostile")
	count := flag.Int("count", 0, "of that part")
	flag.Parse()
	if *role != "" {
		runPeer(*role, *count)
		return
	}
	switch {
	case *attack:
		table, err := hostile(*keyrack, *idle, *duration)
		write(*out, "hostile", table, err)
		return
	case *crowd != "":
		table, err := million(*keyrack, *crowd, *keys, *duration)
		write(*out, "million", table, err)
		return
	}
	var table bytes.Buffer
	fmt.Fprintf(&table, "%s, commit %s, %s, %s, %v a run, median of %d.\n\n",
		machine(), output("git", "describe", "--always", "--dirty"), time.Now().UTC().Format("2006-01-02"), runtime.Version(), *duration, *runs)
	table.WriteString("| operation | connections × in flight | server CPU-µs/op | goal | ops/s | p50 ms | p99 ms | allocations/op |\n|---|---|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range rows {
		line := r.line(r.measure(*keyrack, *duration, *runs))
		fmt.Print(line)
		table.WriteString(line)
	}
	write(*out, "table", table.Bytes(), nil)
}

// write puts a table into its place, unless it could not be measured.
func write(path, name string, table []byte, err error) {
	if err == nil {
		err = replace(path, name, table)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// measure runs a row and returns the run with the median CPU time.
func (r row) measure(keyrack string, d time.Duration, runs int) result {
	args := []string{"dev", "--", keyrack, "bench", "--op", r.op, "--size", fmt.Sprint(r.size), "--conns", fmt.Sprint(r.conns),
		"--depth", fmt.Sprint(r.depth), "--duration", d.String(), "--output", "json"}
	if r.salts > 0 {
		args, runs = append(args, "--distinct-salts", fmt.Sprint(r.salts)), 1 // waits for minutes
	}
	if r.keys > 0 {
		args, runs = append(args, "--keys", fmt.Sprint(r.keys)), 1 // makes the keys first
	}
	all := make([]result, runs)
	for i := range all {
		cmd := exec.Command(keyrack, args...)
		cmd.Stderr = os.Stderr
		b, err := cmd.Output()
		if err == nil {
			err = json.Unmarshal(b, &all[i])
		}
		if err != nil {
			log.Fatalf("%s: %v", strings.Join(args, " "), err)
		}
	}
	slices.SortFunc(all, func(a, b result) int { return int(1000 * (a.ServerCPUMicros - b.ServerCPUMicros)) })
	return all[runs/2]
}

func (r row) line(m result) string {
	goal, name := "", fmt.Sprintf("%s %d B", r.op, r.size)
	if r.goal > 0 {
		goal = fmt.Sprintf("%.0f", r.goal)
	}
	if r.salts > 0 {
		name += fmt.Sprintf(", %d salts", r.salts)
	}
	if r.keys > 0 {
		name += fmt.Sprintf(", one of %d keys", r.keys)
	}
	return fmt.Sprintf("| %s | %d × %d | %.2f | %s | %.0f | %.2f | %.2f | %.2f |\n", name, r.conns, r.depth,
		m.ServerCPUMicros, goal, m.OpsPerSecond, m.P50Micros/1000, m.P99Micros/1000, m.AllocationsPerOp)
}

// replace puts table between the markers of a name in a file.
func replace(path, name string, table []byte) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- end -->\n"
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no %q and %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(head+begin+string(table)+end+tail), 0o644)
}

// machine names the processor and how many of it there are.
func machine() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name\t: "); ok {
			return fmt.Sprintf("%d × %s", runtime.NumCPU(), strings.TrimSpace(name))
		}
	}
	return runtime.GOARCH
}

func output(name string, args ...string) string {
	b, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
