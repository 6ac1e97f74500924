package work_test

import (
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
	all := map[work.Class]work.Size{work.Store: {Workers: 1}, work.Token: {Workers: 1}, work.Compute: {Workers: 1}}
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
		for i := range 5 {
			if !p.Go(work.Token, job) {
				t.Fatalf("job %d of 5 was refused", i+1)
			}
		}
		if p.Go(work.Token, job) {
			t.Fatal("a sixth job was taken by 2 workers and a queue of 3")
		}
		close(release)
		synctest.Wait()
		if !p.Go(work.Token, job) {
			t.Fatal("refused after the jobs were done")
		}
		synctest.Wait()
		if got := ran.Load(); got != 6 {
			t.Fatalf("%d jobs ran, want 6", got)
		}
	})
}

func TestFullClassLeavesTheOthersAlone(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *work.Pools) {
		release := make(chan struct{})
		defer close(release)
		if !p.Go(work.Token, func() { <-release }) || p.Go(work.Token, func() {}) {
			t.Fatal("the token class should hold one job and no more")
		}
		for _, c := range []work.Class{work.Store, work.Compute} {
			done := false
			if !p.Go(c, func() { done = true }) {
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
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 1, Queue: 100}}, func(t *testing.T, p *work.Pools) {
		var order []int
		for i := range 100 {
			p.Go(work.Store, func() { order = append(order, i) })
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
	inBubble(t, map[work.Class]work.Size{work.Compute: {Workers: 1, Queue: 2}}, func(t *testing.T, p *work.Pools) {
		var reported []any
		p.OnPanic(func(c work.Class, v any, stack []byte) {
			if c != work.Compute || !strings.Contains(string(stack), "TestPanicCostsOneJobAndIsReported") {
				t.Errorf("report of class %s with stack %q", c, stack)
			}
			reported = append(reported, v)
		})
		ran := false
		p.Go(work.Compute, func() { panic("first") })
		p.Go(work.Compute, func() { panic("second") })
		p.Go(work.Compute, func() { ran = true })
		synctest.Wait()
		if !ran || len(reported) != 2 || reported[0] != "first" || reported[1] != "second" {
			t.Fatalf("reported %v, the third job ran: %v", reported, ran)
		}
	})
}

func TestPanicWithoutHookIsContained(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *work.Pools) {
		p.Go(work.Store, func() { panic("nobody listens") })
		synctest.Wait()
		p.OnPanic(nil)
		if !p.Go(work.Store, func() { panic("still nobody") }) {
			t.Fatal("the worker was lost")
		}
	})
}

func TestGoexitDoesNotLoseTheWorker(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 1, Queue: 2}}, func(t *testing.T, p *work.Pools) {
		ran := 0
		p.Go(work.Store, func() { runtime.Goexit() })
		p.Go(work.Store, func() { ran++; runtime.Goexit() })
		p.Go(work.Store, func() { ran++ })
		synctest.Wait()
		if ran != 2 {
			t.Fatalf("%d of 2 jobs ran after one ended its goroutine", ran)
		}
	})
}

func TestCloseDrainsTheQueue(t *testing.T) {
	inBubble(t, map[work.Class]work.Size{work.Store: {Workers: 1, Queue: 9}}, func(t *testing.T, p *work.Pools) {
		ran := 0
		for range 10 {
			p.Go(work.Store, func() { time.Sleep(time.Second); ran++ })
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ran != 10 {
			t.Fatalf("Close returned after %d of 10 jobs", ran)
		}
		if p.Go(work.Store, func() { t.Error("ran after Close") }) {
			t.Fatal("Go took a job after Close")
		}
	})
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *work.Pools) {
		finished := false
		p.Go(work.Token, func() { time.Sleep(time.Hour); finished = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Close = %v, want its context's error", err)
		}
		if p.Go(work.Token, func() {}) {
			t.Fatal("Go took a job after Close")
		}
		if err := p.Close(t.Context()); err != nil || !finished {
			t.Fatalf("second Close = %v, job finished: %v", err, finished)
		}
	})
}

func TestClassWithoutPoolIsRefused(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *work.Pools) {
		for _, c := range []work.Class{work.None, work.Compute + 1, 255} {
			if p.Go(c, func() { t.Error("ran") }) {
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
		"class none":        {work.None: one, work.Store: one, work.Token: one, work.Compute: one},
		"no workers":        {work.Store: {}, work.Token: one, work.Compute: one},
		"too many workers":  {work.Store: {Workers: work.MaxWorkers + 1}, work.Token: one, work.Compute: one},
		"negative queue":    {work.Store: one, work.Token: {Workers: 1, Queue: -1}, work.Compute: one},
		"queue without end": {work.Store: one, work.Token: one, work.Compute: {Workers: 1, Queue: work.MaxQueue + 1}},
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
	for c, want := range map[work.Class]string{work.None: "none", work.Store: "store", work.Token: "token", work.Compute: "compute", 9: "class 9"} {
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
				if p.Go(class, func() { ran.Add(1) }) {
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
		p.Go(work.Store, job)
		<-done
	}
}
