package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/service/appliance"
)

// check starts a check, or asks how the last one is.
func (d *desk) check(tb testing.TB, report bool) applianceapi.CheckRecordsResponse {
	tb.Helper()
	out, err := ask(tb, d, applianceapi.CheckRecords, &applianceapi.CheckRecordsRequest{Report: report})
	if err != nil {
		tb.Fatal(err)
	}
	return *out
}

// checked starts a check and asks until it is over.
func (d *desk) checked(tb testing.TB) applianceapi.CheckRecordsResponse {
	tb.Helper()
	out := d.check(tb, false)
	for out.State == applianceapi.CheckRunning {
		out = d.check(tb, true)
	}
	return out
}

// TestCheckOfAnAppliance runs the real one.
func TestCheckOfAnAppliance(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	r.CreateKey()
	in := &applianceapi.CheckRecordsRequest{}
	for {
		out, err := do(t, r.Operator, applianceapi.CheckRecords, in)
		if err != nil {
			t.Fatal(err)
		}
		if in.Report = true; out.State == applianceapi.CheckRunning {
			continue
		}
		if out.State != applianceapi.CheckPassed || out.Done == 0 || out.Done != out.Total || out.Generation == 0 || len(out.Problems) > 0 || out.StartTime == 0 {
			t.Errorf("got %+v", out)
		}
		return
	}
}

// TestOneCheckAtATime looks at a check while it runs: others start none, and see how far it is.
func TestOneCheckAtATime(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	step, tell := make(chan struct{}), make(chan struct{})
	part := func(_ context.Context, progress func(done, total int)) (appliance.Report, error) {
		runs.Add(1)
		progress(1, 4)
		tell <- struct{}{}
		<-step
		progress(4, 4)
		return appliance.Report{Generation: uint64(10 - runs.Load())}, nil
	}
	d := newDesk(t, func(_ *desk, cfg *appliance.Config) { cfg.Checks = []appliance.Check{part, part} })
	if got := d.check(t, true); got.State != 0 || got.StartTime != 0 || runs.Load() != 0 {
		t.Errorf("before the first check: %+v", got)
	}
	d.check(t, false)
	<-tell
	if got := d.check(t, false); got.State != applianceapi.CheckRunning || got.Done != 1 || got.Total != 4 {
		t.Errorf("in its first part: %+v", got)
	}
	step <- struct{}{}
	<-tell
	if got := d.check(t, true); got.State != applianceapi.CheckRunning || got.Done != 5 || got.Total != 8 {
		t.Errorf("in its second part: %+v", got)
	}
	step <- struct{}{}
	if got := waitForEnd(t, d); got.State != applianceapi.CheckPassed || got.Done != 8 || got.Total != 8 || got.Generation != 9 || runs.Load() != 2 {
		t.Errorf("at its end: %+v, %d parts", got, runs.Load())
	}
	d.check(t, false)
	<-tell
	if got := d.check(t, true); got.State != applianceapi.CheckRunning || got.Done != 1 || got.Total != 4 || got.Generation != 0 {
		t.Errorf("the next one begins with %+v", got)
	}
	step <- struct{}{}
	<-tell
	step <- struct{}{}
	waitForEnd(t, d)
}

func waitForEnd(tb testing.TB, d *desk) applianceapi.CheckRecordsResponse {
	tb.Helper()
	for {
		if got := d.check(tb, true); got.State != applianceapi.CheckRunning {
			return got
		}
	}
}

// TestWhatACheckFinds ends in what an operator reads.
func TestWhatACheckFinds(t *testing.T) {
	t.Parallel()
	many := make([]string, 250)
	for i := range many {
		many[i] = fmt.Sprint("problem ", i)
	}
	passes := func(context.Context, func(done, total int)) (appliance.Report, error) {
		return appliance.Report{Generation: 7}, nil
	}
	for name, c := range map[string]struct {
		part  appliance.Check
		count int
		last  string
	}{
		"nothing":        {passes, 0, ""},
		"a problem":      {finds("row 7 is gone"), 1, "row 7 is gone"},
		"many":           {finds(many...), 100, "there are 151 problems more"},
		"as many as fit": {finds(many[:100]...), 100, "problem 99"},
		"a long one":     {finds(strings.Repeat("ü", 5000)), 1, strings.Repeat("ü", 512)},
		"half a letter":  {finds("x" + strings.Repeat("ü", 5000)), 1, "x" + strings.Repeat("ü", 511)},
		"an error": {func(context.Context, func(done, total int)) (appliance.Report, error) {
			return appliance.Report{}, errors.New("the medium is gone")
		}, 1, "the check did not come to its end: the medium is gone"},
		"a panic": {func(context.Context, func(done, total int)) (appliance.Report, error) { panic("never to be seen") }, 1,
			"the check panicked: the store holds what it was not prepared for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, func(_ *desk, cfg *appliance.Config) { cfg.Checks = []appliance.Check{c.part, passes} })
			got, want := d.checked(t), applianceapi.CheckFailed
			if c.count == 0 {
				want = applianceapi.CheckPassed
			}
			if got.State != want || len(got.Problems) != c.count || c.count > 0 && got.Problems[c.count-1] != c.last {
				t.Errorf("got %+v, want %d problems and at last %q", got, c.count, c.last)
			}
			if got.Generation != 7 {
				t.Errorf("the second part was not run: generation %d", got.Generation)
			}
		})
	}
}

// finds returns a check that finds problems.
func finds(problems ...string) appliance.Check {
	return func(context.Context, func(done, total int)) (appliance.Report, error) {
		return appliance.Report{Problems: problems}, nil
	}
}

// TestStopChecks ends a check that would not end by itself.
func TestStopChecks(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	var over atomic.Bool
	d := newDesk(t, func(_ *desk, cfg *appliance.Config) {
		cfg.Checks = []appliance.Check{func(ctx context.Context, _ func(done, total int)) (appliance.Report, error) {
			close(begun)
			<-ctx.Done()
			over.Store(true)
			return appliance.Report{}, ctx.Err()
		}}
	})
	if err := d.self.StopChecks(t.Context()); err != nil {
		t.Errorf("with none at work: %v", err)
	}
	d.check(t, false)
	<-begun
	if err := d.self.StopChecks(t.Context()); err != nil || !over.Load() {
		t.Errorf("stopped: %v, over: %t", err, over.Load())
	}
	if got := d.check(t, true); got.State != applianceapi.CheckFailed {
		t.Errorf("it says %+v", got)
	}
}
