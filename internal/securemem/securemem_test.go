package securemem_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/keyrack/keyrack/internal/securemem"
	"golang.org/x/sys/unix"
)

// hardened is set in the child that TestHarden starts: Harden cannot be undone, so it needs a process of its own.
const hardened = "SECUREMEM_TEST_HARDENED"

// threads is set in the child that TestDoHasThreads starts: what a process does first, it does once.
const threads = "SECUREMEM_TEST_THREADS"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(hardened) != "":
		os.Exit(reportHardened())
	case os.Getenv(threads) != "":
		os.Exit(reportThreads())
	}
	os.Exit(m.Run())
}

func reportThreads() int {
	securemem.Do(func() { securemem.Do(func() {}) })
	all, err := os.ReadDir("/proc/self/task")
	fmt.Println(len(all), err)
	return 0
}

// TestDoHasThreads: a program with cgo starts no thread inside Do, because it has enough before.
func TestDoHasThreads(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), threads+"=1", "GOMAXPROCS=3")
	out, err := cmd.CombinedOutput()
	var n int
	if _, scan := fmt.Sscan(string(out), &n); err != nil || scan != nil || n < securemem.Threads(3) {
		t.Errorf("a process has %s threads after Do, want %d: %v", out, securemem.Threads(3), err)
	}
}

func reportHardened() int {
	if err := securemem.Harden(); err != nil {
		fmt.Println(err)
		return 1
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	var core unix.Rlimit
	err = errors.Join(err, unix.Getrlimit(unix.RLIMIT_CORE, &core))
	fmt.Println("dumpable", dumpable, "core", core.Cur, core.Max, "error", err)
	return 0
}

func TestHarden(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hardened+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := string(out), "dumpable 0 core 0 0 error <nil>\n"; got != want {
		t.Errorf("a hardened process reports %q, want %q", got, want)
	}
}

func TestBufferHoldsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 31, 32, 33, 64, 100, 2048, 4095, 4096, 4097, 20000} {
		secret := bytes.Repeat([]byte{0xA5}, n)
		b, err := securemem.From(secret)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got := b.Bytes(); !bytes.Equal(got, secret) || cap(got) != n || b.Len() != n {
			t.Errorf("%d bytes: holds %d bytes of capacity %d, Len %d", n, len(got), cap(got), b.Len())
		}
		b.Free()
		if b.Bytes() != nil {
			t.Errorf("%d bytes: still readable after Free", n)
		}
	}
}

func TestNewIsZeroAfterReuse(t *testing.T) {
	t.Parallel()
	a := securemem.NewArena(1<<20, nil, nil)
	for range 3 {
		var all []*securemem.Buffer
		for range 600 {
			b := mustNew(t, a, 32)
			if !bytes.Equal(b.Bytes(), make([]byte, 32)) {
				t.Fatal("a new buffer shows an old secret")
			}
			securemem.Wipe(b.Bytes())
			copy(b.Bytes(), "an old secret that must not show")
			all = append(all, b)
		}
		for _, b := range all {
			b.Free()
		}
	}
}

func TestBuffersDoNotOverlap(t *testing.T) {
	t.Parallel()
	a := securemem.NewArena(1<<20, nil, nil)
	var all []*securemem.Buffer
	for i := range 1000 {
		b := mustNew(t, a, 1+i%200)
		for j := range b.Bytes() {
			b.Bytes()[j] = byte(i)
		}
		all = append(all, b)
	}
	for i, b := range all {
		if want := bytes.Repeat([]byte{byte(i)}, b.Len()); !bytes.Equal(b.Bytes(), want) {
			t.Fatalf("buffer %d was written by another", i)
		}
	}
}

func TestFreeWipes(t *testing.T) {
	t.Parallel()
	a := securemem.NewArena(1<<20, nil, nil)
	neighbour := mustNew(t, a, 32) // keeps the page mapped, so that the freed slot can be looked at
	defer neighbour.Free()
	b := mustNew(t, a, 32)
	slot := b.Bytes()
	copy(slot, "a secret that must be wiped now!")
	b.Free()
	if !bytes.Equal(slot, make([]byte, 32)) {
		t.Error("the secret is still in memory after Free")
	}
}

func TestFreeIsIdempotent(t *testing.T) {
	t.Parallel()
	a := securemem.NewArena(1<<20, nil, nil)
	b := mustNew(t, a, 32)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(b.Free)
	}
	wg.Wait()
	first, second := mustNew(t, a, 32), mustNew(t, a, 32)
	if &first.Bytes()[0] == &second.Bytes()[0] {
		t.Error("a slot freed twice was handed out twice")
	}
	var none *securemem.Buffer
	none.Free()
}

func TestArenaIsBounded(t *testing.T) {
	t.Parallel()
	a := securemem.NewArena(64<<10, nil, nil)
	var all []*securemem.Buffer
	for {
		b, err := a.New(4096)
		if err != nil {
			if !errors.Is(err, securemem.ErrFull) {
				t.Fatalf("a full arena returned %v", err)
			}
			break
		}
		all = append(all, b)
	}
	if got := a.Status(); len(all) != 16 || got.InUse != 64<<10 || got.Limit != 64<<10 {
		t.Errorf("%d buffers, status %+v", len(all), got)
	}
	if _, err := a.New(math.MaxInt); !errors.Is(err, securemem.ErrFull) {
		t.Errorf("all memory there is returned %v", err)
	}
	for _, b := range all {
		b.Free()
	}
	if b, err := a.New(60 << 10); err != nil {
		t.Errorf("freed pages of one class do not serve another: %v", err)
	} else {
		b.Free()
	}
	if got := a.Status().InUse; got > 16<<10 {
		t.Errorf("%d bytes in use when all is freed", got)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, -1} {
		if _, err := securemem.NewArena(1<<20, nil, nil).New(n); !errors.Is(err, securemem.ErrSize) {
			t.Errorf("New(%d) returned %v", n, err)
		}
	}
	if _, err := securemem.From(nil); !errors.Is(err, securemem.ErrSize) {
		t.Errorf("From(nil) returned %v", err)
	}
}

func TestRefusedLock(t *testing.T) {
	t.Parallel()
	refuse := func([]byte) error { return unix.ENOMEM }
	a := securemem.NewArena(1<<20, refuse, nil)
	if _, err := a.New(32); !errors.Is(err, securemem.ErrNotLocked) || !errors.Is(err, unix.ENOMEM) {
		t.Fatalf("New returned %v", err)
	}
	if s := a.Status(); s.Locked || s.InUse != 0 || s.Reason == "" {
		t.Errorf("status of a refusing kernel: %+v", s)
	}
	a.AllowUnlocked(true)
	b := mustNew(t, a, 32)
	defer b.Free()
	if s := a.Status(); s.Locked || !s.DontDump || !strings.Contains(s.Reason, "cannot allocate memory") {
		t.Errorf("status with unlocked pages allowed: %+v", s)
	}
	a.AllowUnlocked(false)
	if s := a.Status(); s.Locked {
		t.Errorf("unlocked pages forgotten: %+v", s)
	}
}

func TestStatusOfTheProcess(t *testing.T) {
	t.Parallel()
	s := securemem.Status()
	if !s.Locked || !s.DontDump || s.Reason != "" || s.Limit < 32 {
		t.Errorf("status %+v", s)
	}
}

func TestPagesAreLockedHiddenAndFenced(t *testing.T) {
	t.Parallel()
	for _, n := range []int{32, 9000} {
		b, err := securemem.New(n)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Free()
		at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b.Bytes()))))
		m := mappingAt(t, at)
		for _, flag := range []string{"lo", "dd", "dc"} { // locked, do not dump, do not copy on fork: proc(5)
			if !strings.Contains(m.flags+" ", " "+flag+" ") {
				t.Errorf("%d bytes: VmFlags%s lack %s", n, m.flags, flag)
			}
		}
		for _, at := range []uint64{m.lo - 1, m.hi} {
			if fence := mappingAt(t, at); fence.access != "---p" {
				t.Errorf("%d bytes: the neighbour at %x has access %s", n, at, fence.access)
			}
		}
	}
}

type mapping struct {
	lo, hi        uint64
	access, flags string
}

// mappingAt reads the entry of /proc/self/smaps that covers address at.
func mappingAt(t *testing.T, at uint64) mapping {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	var m mapping
	for line := range strings.Lines(string(smaps)) {
		var next mapping
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &next.lo, &next.hi, &next.access); n == 3 {
			m = next
		}
		if flags, ok := strings.CutPrefix(strings.TrimSpace(line), "VmFlags:"); ok && m.lo <= at && at < m.hi {
			m.flags = flags
			return m
		}
	}
	t.Fatalf("no mapping at %x", at)
	return m
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	a := securemem.NewArena(8<<20, nil, nil)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				b, err := a.New(1 + (g*97+i*31)%3000)
				if err != nil {
					t.Error(err)
					return
				}
				b.Bytes()[0] = byte(g)
				if b.Bytes()[0] != byte(g) {
					t.Error("a slot is shared")
				}
				b.Free()
			}
		})
	}
	wg.Wait()
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	b, err := securemem.From([]byte("hunter2hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Free()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "secret", b)
	for _, s := range []string{fmt.Sprint(b), fmt.Sprintf("%v %+v %#v %s %x %d", b, b, b, b, b, b), log.String()} {
		if strings.Contains(s, "hunter") || strings.Contains(s, "68756e746572") || strings.Contains(s, "104 117") {
			t.Errorf("printed the secret: %s", s)
		}
	}
	if !strings.Contains(log.String(), "secret.bytes=14") {
		t.Errorf("log lacks the length: %s", log.String())
	}
}

func TestDoRunsNestsAndPanics(t *testing.T) {
	t.Parallel()
	ran := 0
	securemem.Do(func() { securemem.Do(func() { ran++ }) })
	if ran != 1 {
		t.Errorf("ran %d times", ran)
	}
	defer func() {
		if got := recover(); got != "out" {
			t.Errorf("recovered %v", got)
		}
	}()
	securemem.Do(func() { panic("out") })
}

func mustNew(t *testing.T, a securemem.Arena, n int) *securemem.Buffer {
	t.Helper()
	b, err := a.New(n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func BenchmarkNewFree(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		buf, err := securemem.New(32)
		if err != nil {
			b.Fatal(err)
		}
		buf.Free()
	}
}

// TestTaken: as many buffers as fit into a slab by what each takes fill it, and one more needs another.
func TestTaken(t *testing.T) {
	t.Parallel()
	slab := max(16<<10, os.Getpagesize())
	for _, n := range []int{1, 32, 33, 48, 64, 66, 256, 384, 512, 513, 4096} {
		a := securemem.NewArena(1<<20, nil, nil)
		for range slab / securemem.Taken(n) {
			if _, err := a.New(n); err != nil {
				t.Fatal(err)
			}
		}
		if got := a.Status().InUse; got != slab {
			t.Errorf("%d bytes: %d in use, want %d", n, got, slab)
		}
		if _, err := a.New(n); err != nil || a.Status().InUse != 2*slab {
			t.Errorf("%d bytes: one more leaves %d in use, %v", n, a.Status().InUse, err)
		}
	}
	if got := securemem.Taken(4097); got%os.Getpagesize() != 0 || got < 4097 {
		t.Errorf("4097 bytes take %d", got)
	}
}
