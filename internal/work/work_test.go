package work_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyrack/keyrack/internal/work"
)

// sized gives every class one worker and no queue, except those in sizes.
func sized(sizes map[work.Class]work.Size) *work.Pools {
	all := map[work.Class]work.Size{work.Store: {Workers: 1}, work.Token: {Workers: 1}, work.Compute: {Workers: 1}, work.Generate: {Workers: 1}}
	for c, s := range sizes {
		all[c] = s
	}
	return work.New(all)
}

// inBubble runs f in a synctest bubble, which fails the test when a goroutine is left over, and
// closes the pools at its end.
func inBubble(t *testing.T, sizes map[work.Class]work.Size, f func(t *testing.T, p *work.Pools)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := sized(sizes)
		f(t, p)
		if err := p.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

func TestRefusesExactlyWhenFull(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Token: {Workers: 2, Queue: 3}}, func(t *testing.T, p *work.Pools) {
		release := make(chan struct{})
		var ran atomic.Int32
		job := func() { <-release; ran.Add(1) }
		for i := range 4 {
			if !p.Go(work.Token, account(1), 0, job) {
				t.Fatalf("job %d of 4 was refused", i+1)
			}
		}
		if p.Go(work.Token, account(1), 0, job) {
			t.Fatal("a fifth job of one account was taken by 2 workers and a queue of 3")
		}
		if !p.Go(work.Token, account(2), 0, job) {
			t.Fatal("another account finds no place")
		}
		if p.Go(work.Token, account(3), 0, job) {
			t.Fatal("a sixth job was taken by 2 workers and a queue of 3")
		}
		close(release)
		synctest.Wait()
		if !p.Go(work.Token, account(1), 0, job) {
			t.Fatal("refused after the jobs were done")
		}
		synctest.Wait()
		if got := ran.Load(); got != 6 {
			t.Fatalf("%d jobs ran, want 6", got)
		}
	})
}

// account returns an account of a number.
func account(n byte) work.Account { return work.Account{n} }

// TestOneAccountLeavesWorkersToOthers: whatever one account asks for, the next finds a worker at
// once, and the one after that too.
func TestOneAccountLeavesWorkersToOthers(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 16, Queue: 4096}}, func(t *testing.T, p *work.Pools) {
		release := make(chan struct{})
		var running [4]int
		var mu sync.Mutex
		stuck := func(n byte) func() {
			return func() {
				mu.Lock()
				running[n]++
				mu.Unlock()
				<-release
			}
		}
		taken := 0
		for p.Go(work.Store, account(1), 0, stuck(1)) {
			taken++
		}
		for n := byte(2); n < 4; n++ {
			for range 100 {
				if !p.Go(work.Store, account(n), 0, stuck(n)) {
					t.Fatalf("account %d finds no place", n)
				}
			}
		}
		synctest.Wait()
		if running != [4]int{0, 12, 3, 1} || taken != 12+2048 {
			t.Errorf("%v run at once, and %d of the first were taken; want 12, 3 and 1, and 12+2048", running[1:], taken)
		}
		close(release)
	})
}

// TestAccountsTakeTurns: who brings a few jobs behind another's thousand waits for a few.
func TestAccountsTakeTurns(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 1, Queue: 4096}}, func(t *testing.T, p *work.Pools) {
		var order []byte
		job := func(n byte) func() { return func() { order = append(order, n) } }
		for range 1000 {
			p.Go(work.Store, account(1), 0, job(1))
		}
		for range 3 {
			p.Go(work.Store, account(2), 0, job(2))
			p.Go(work.Store, account(3), 0, job(3))
		}
		synctest.Wait()
		if got := order[:10]; !bytes.Equal(got, []byte{1, 1, 2, 3, 1, 2, 3, 1, 2, 3}) || len(order) != 1006 {
			t.Errorf("the first ran in the order %v, %d in all", got, len(order))
		}
	})
}

// TestWorkersAreNotLeftIdle: jobs that waited for their account's share run when others' jobs end,
// all that may by then.
func TestWorkersAreNotLeftIdle(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 4, Queue: 64}}, func(t *testing.T, p *work.Pools) {
		first, second := make(chan struct{}), make(chan struct{})
		var running atomic.Int32
		for range 2 {
			p.Go(work.Store, account(1), 0, func() { <-first })
		}
		for range 8 {
			p.Go(work.Store, account(2), 0, func() { running.Add(1); <-second })
		}
		synctest.Wait()
		if n := running.Load(); n != 2 {
			t.Errorf("%d of the second account's jobs run beside two others, want 2", n)
		}
		close(first)
		synctest.Wait()
		if n := running.Load(); n != 3 {
			t.Errorf("%d of the second account's jobs run alone, want 3", n)
		}
		close(second)
		synctest.Wait()
		if n := running.Load(); n != 8 {
			t.Errorf("%d of 8 jobs ran", n)
		}
	})
}

// TestLargeJobsTakeMorePlaces: what waits is bounded in bytes too.
func TestLargeJobsTakeMorePlaces(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 1, Queue: 100}}, func(t *testing.T, p *work.Pools) {
		release := make(chan struct{})
		defer close(release)
		const size = 9 * work.PlaceBytes // 10 places
		taken := 0
		for p.Go(work.Store, account(1), size, func() { <-release }) {
			taken++
		}
		if taken != 1+5 {
			t.Errorf("%d jobs of 10 places were taken by a worker and a queue of 100, want 6", taken)
		}
		if p.Go(work.Store, account(2), 100*work.PlaceBytes, func() {}) {
			t.Error("a job was taken that is larger than the queue")
		}
	})
}

func TestFullClassLeavesTheOthersAlone(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *work.Pools) {
		release := make(chan struct{})
		defer close(release)
		if !p.Go(work.Token, work.Account{}, 0, func() { <-release }) || p.Go(work.Token, work.Account{}, 0, func() {}) {
			t.Fatal("the token class should hold one job and no more")
		}
		for _, c := range []work.Class{work.Store, work.Compute} {
			done := false
			if !p.Go(c, work.Account{}, 0, func() { done = true }) {
				t.Errorf("%s refused while token was full", c)
			}
			synctest.Wait()
			if !done {
				t.Errorf("%s did not run while token was stuck", c)
			}
		}
	})
}

func TestQueueIsFirstComeFirstServed(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 1, Queue: 198}}, func(t *testing.T, p *work.Pools) {
		var order []int
		for i := range 100 {
			p.Go(work.Store, work.Account{}, 0, func() { order = append(order, i) })
		}
		synctest.Wait()
		for i, got := range order {
			if got != i {
				t.Fatalf("job %d ran as number %d", got, i)
			}
		}
		if len(order) != 100 {
			t.Fatalf("%d jobs ran, want 100", len(order))
		}
	})
}

func TestPanicCostsOneJobAndIsReported(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Compute: {Workers: 1, Queue: 4}}, func(t *testing.T, p *work.Pools) {
		var reported []any
		p.OnPanic(func(c work.Class, v any, stack []byte) {
			if c != work.Compute || !strings.Contains(string(stack), "TestPanicCostsOneJobAndIsReported") {
				t.Errorf("report of class %s with stack %q", c, stack)
			}
			reported = append(reported, v)
		})
		ran := false
		p.Go(work.Compute, work.Account{}, 0, func() { panic("first") })
		p.Go(work.Compute, work.Account{}, 0, func() { panic("second") })
		p.Go(work.Compute, work.Account{}, 0, func() { ran = true })
		synctest.Wait()
		if !ran || len(reported) != 2 || reported[0] != "first" || reported[1] != "second" {
			t.Fatalf("reported %v, the third job ran: %v", reported, ran)
		}
	})
}

func TestPanicWithoutHookIsContained(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *work.Pools) {
		p.Go(work.Store, work.Account{}, 0, func() { panic("nobody listens") })
		synctest.Wait()
		p.OnPanic(nil)
		if !p.Go(work.Store, work.Account{}, 0, func() { panic("still nobody") }) {
			t.Fatal("the worker was lost")
		}
	})
}

func TestGoexitDoesNotLoseTheWorker(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 1, Queue: 4}}, func(t *testing.T, p *work.Pools) {
		ran := 0
		p.Go(work.Store, work.Account{}, 0, func() { runtime.Goexit() })
		p.Go(work.Store, work.Account{}, 0, func() { ran++; runtime.Goexit() })
		p.Go(work.Store, work.Account{}, 0, func() { ran++ })
		synctest.Wait()
		if ran != 2 {
			t.Fatalf("%d of 2 jobs ran after one ended its goroutine", ran)
		}
	})
}

func TestCloseDrainsTheQueue(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 1, Queue: 18}}, func(t *testing.T, p *work.Pools) {
		ran := 0
		for range 10 {
			p.Go(work.Store, work.Account{}, 0, func() { time.Sleep(time.Second); ran++ })
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ran != 10 {
			t.Fatalf("Close returned after %d of 10 jobs", ran)
		}
		if p.Go(work.Store, work.Account{}, 0, func() { t.Error("ran after Close") }) {
			t.Fatal("Go took a job after Close")
		}
	})
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *work.Pools) {
		finished := false
		p.Go(work.Token, work.Account{}, 0, func() { time.Sleep(time.Hour); finished = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Close = %v, want its context's error", err)
		}
		if p.Go(work.Token, work.Account{}, 0, func() {}) {
			t.Fatal("Go took a job after Close")
		}
		if err := p.Close(t.Context()); err != nil || !finished {
			t.Fatalf("second Close = %v, job finished: %v", err, finished)
		}
	})
}

func TestClassWithoutPoolIsRefused(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *work.Pools) {
		for _, c := range []work.Class{work.None, work.Generate + 1, 255} {
			if p.Go(c, work.Account{}, 0, func() { t.Error("ran") }) {
				t.Errorf("Go(%s) took a job", c)
			}
		}
	})
}

func TestNewRefusesBadSizes(t *testing.T) {
	t.Parallel()
	one := work.Size{Workers: 1}
	cases := map[string]map[work.Class]work.Size{
		"missing class":     {work.Store: one, work.Token: one},
		"class none":        {work.None: one, work.Store: one, work.Token: one, work.Compute: one, work.Generate: one},
		"no workers":        {work.Store: {}, work.Token: one, work.Compute: one, work.Generate: one},
		"too many workers":  {work.Store: {Workers: work.MaxWorkers + 1}, work.Token: one, work.Compute: one, work.Generate: one},
		"negative queue":    {work.Store: one, work.Token: {Workers: 1, Queue: -1}, work.Compute: one, work.Generate: one},
		"queue without end": {work.Store: one, work.Token: one, work.Compute: {Workers: 1, Queue: work.MaxQueue + 1}, work.Generate: one},
	}
	for name, sizes := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Error("New accepted it")
				}
			}()
			work.New(sizes)
		})
	}
}

func TestClassNames(t *testing.T) {
	t.Parallel()
	for c, want := range map[work.Class]string{work.None: "none", work.Store: "store", work.Token: "token", work.Compute: "compute", work.Generate: "generate", 9: "class 9"} {
		if got := c.String(); got != want {
			t.Errorf("Class(%d) = %q, want %q", uint8(c), got, want)
		}
	}
}

// TestEveryAcceptedJobRunsOnce is the storm for the race detector: submitters against Close.
func TestEveryAcceptedJobRunsOnce(t *testing.T) {
	t.Parallel()
	p := sized(map[work.Class]work.Size{work.Store: {Workers: 3, Queue: 5}, work.Compute: {Workers: 2}})
	var accepted, ran atomic.Int64
	var submitters sync.WaitGroup
	for i := range 8 {
		class := []work.Class{work.Store, work.Compute}[i%2]
		submitters.Go(func() {
			for range 500 {
				if p.Go(class, work.Account{}, 0, func() { ran.Add(1) }) {
					accepted.Add(1)
				}
			}
		})
	}
	for range 2 {
		submitters.Go(func() {
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	submitters.Wait()
	if accepted.Load() != ran.Load() {
		t.Fatalf("%d accepted, %d ran", accepted.Load(), ran.Load())
	}
}

func BenchmarkGo(b *testing.B) {
	p := sized(map[work.Class]work.Size{work.Store: {Workers: 4, Queue: 64}})
	done := make(chan struct{})
	job := func() { done <- struct{}{} }
	b.ReportAllocs()
	for b.Loop() {
		p.Go(work.Store, work.Account{}, 0, job)
		<-done
	}
}
