package kms

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/keystore"
)

// Usage counts what keys are used for, as a service does.
type Usage struct {
	*usage
	stop func()
	ends sync.WaitGroup
}

// FollowUsage begins to count, with at most so many keys in memory; rows are written by Flush, and
// by a goroutine of its own when memory is full.
func FollowUsage(store keystore.Store, log *audit.Log, clk *clock.Clock, most int) (*Usage, error) {
	u, err := newUsage(context.Background(), store, log, clk, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	u.most = most
	f := &Usage{usage: u}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.ends.Go(func() { u.follow(ctx) })
	if most < usageKeys {
		f.ends.Go(func() { u.write(ctx) })
	}
	return f, nil
}

// Kill ends it without writing anything.
func (u *Usage) Kill() { u.stop(); u.ends.Wait() }

// Reach waits until everything durable is counted.
func (u *Usage) Reach(ctx context.Context) error { return u.reach(ctx, u.log.Durable()) }

// Flush writes what was counted.
func (u *Usage) Flush() error { return u.flush(context.Background()) }

// Hot returns how many keys are counted in memory, and Lost how many were given up.
func (u *Usage) Hot() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.hot)
}

// Lost returns how many keys' uses could not be kept.
func (u *Usage) Lost() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.lost
}

// Flushed returns which part of the log the rows cover.
func (u *Usage) Flushed() audit.Position {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.flushed
}

// LastUse is what is known of a key.
type LastUse struct {
	Since  api.Time
	Counts map[kmsapi.UsageOperation]uint64
	Op     kmsapi.UsageOperation
	Time   api.Time
	Event  api.EventID
}

// Of returns what a key was used for.
func (u *Usage) Of(ctx context.Context, id api.KeyID) (LastUse, error) {
	l, err := u.of(ctx, id)
	out := LastUse{l.since, map[kmsapi.UsageOperation]uint64{}, l.op, l.time, l.event}
	for op, n := range l.counts {
		if n > 0 {
			out.Counts[kmsapi.UsageOperation(op)] = n
		}
	}
	return out, err
}

// Names of the rows.
var (
	UsageName    = usageName
	PositionName = positionName
	KeyName      = keyName
)

// ErrUnsynced is what Flush returns while a power cut could take records that were counted.
var ErrUnsynced = errUnsynced

// UsageOf returns what a service knows of a key's use.
func UsageOf(s *Service) *Usage { return &Usage{usage: s.used} }

// CountRecord counts one encoded record, as the follower does.
func (u *Usage) CountRecord(n audit.Position, record []byte) error {
	return u.count(context.Background(), n, record)
}

// UnusedDays returns for how many days a key of a service was not used at a time.
func UnusedDays(ctx context.Context, s *Service, id api.KeyID, now time.Time) (int, error) {
	k, err := s.load(ctx, id)
	if k == nil {
		return 0, errors.Join(errors.New("no such key"), err)
	}
	return s.unusedDays(ctx, k, now)
}

// RewriteUsageRow reads a row and writes it again.
func RewriteUsageRow(b []byte) ([]byte, error) {
	row, err := parseUsageRow(b)
	if err != nil {
		return nil, err
	}
	return cbor.Marshal(&row)
}
