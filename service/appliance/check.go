package appliance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
)

// Check is a part of CheckRecords. It tells now and then how many of its steps
// are done. An error says that it could not look at everything.
type Check func(ctx context.Context, progress func(done, total int)) (Report, error)

// Report is what a check found. Generation is the one of the records it looked
// at, 0 if it does not know.
type Report struct {
	Generation uint64
	Problems   []string // one sentence each, without secrets
}

// Bounds of what is kept of a check.
const (
	mostProblems   = 100
	longestProblem = 1024 // bytes
)

// checkup is the check that runs, or the last one.
type checkup struct {
	mu     sync.Mutex
	at     applianceapi.CheckRecordsResponse // guarded by mu
	before [2]int64                          // guarded by mu; steps done and known of in the parts that are over
	more   int                               // guarded by mu; problems beyond the bound
	cancel context.CancelFunc                // guarded by mu; ends the one that runs; nil if none does
	over   chan struct{}                     // guarded by mu; closed when the last one is over; nil before the first
}

// CheckRecords starts a check in the background, unless one is running or only
// its state is asked for, and answers how it is.
func (s *Service) CheckRecords(c *access.Call, in *applianceapi.CheckRecordsRequest, out *applianceapi.CheckRecordsResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if !in.Report {
		s.check.start(c.Now(), s.Checks)
	}
	*out = s.check.state()
	return nil
}

// StopChecks ends the check that runs, and returns when it is over.
func (s *Service) StopChecks(ctx context.Context) error {
	s.check.mu.Lock()
	cancel, over := s.check.cancel, s.check.over
	s.check.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start runs all parts in the background, also where one of them fails. While a
// check runs there is no other.
func (k *checkup) start(now time.Time, parts []Check) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel, k.over = cancel, make(chan struct{})
	k.at = applianceapi.CheckRecordsResponse{State: applianceapi.CheckRunning, StartTime: api.TimeOf(now)}
	k.before, k.more = [2]int64{}, 0
	go func() {
		for _, part := range parts {
			k.add(k.run(ctx, part))
		}
		k.finish()
	}()
}

// run runs one part. What a damaged store makes it do costs this check alone.
func (k *checkup) run(ctx context.Context, part Check) (r Report) {
	defer func() {
		if recover() != nil { // the value may hold anything
			r.Problems = append(r.Problems, "the check panicked: the store holds what it was not prepared for")
		}
	}()
	r, err := part(ctx, k.progress)
	if err != nil {
		r.Problems = append(r.Problems, fmt.Sprintf("the check did not come to its end: %v", err))
	}
	return r
}

// state returns a copy of how the check is.
func (k *checkup) state() applianceapi.CheckRecordsResponse {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := k.at
	at.Problems = slices.Clone(at.Problems)
	return at
}

// progress says how far the part that runs is.
func (k *checkup) progress(done, total int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at.Done, k.at.Total = k.before[0]+int64(done), k.before[1]+int64(total)
}

// add ends a part.
func (k *checkup) add(r Report) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.before = [2]int64{k.at.Done, k.at.Total}
	k.at.Generation = max(k.at.Generation, int64(r.Generation))
	for _, p := range r.Problems {
		if len(k.at.Problems) == mostProblems {
			k.more++
			continue
		}
		k.at.Problems = append(k.at.Problems, strings.ToValidUTF8(p[:min(len(p), longestProblem)], ""))
	}
}

// finish ends the check.
func (k *checkup) finish() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cancel()
	k.cancel = nil
	close(k.over)
	if k.at.State = applianceapi.CheckPassed; len(k.at.Problems) > 0 {
		k.at.State = applianceapi.CheckFailed
	}
	if k.more > 0 {
		k.at.Problems[mostProblems-1] = fmt.Sprintf("there are %d problems more", k.more+1)
	}
}
