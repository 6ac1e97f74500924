package kms

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/keystore"
)

// What keys are used for is counted behind the requests, which do nothing for it: a follower reads
// the durable log, where each use stands once, and adds up. How it stays exact whatever happens:
//
//	hot      counts of the log from flushed on; nothing of them is in the store
//	frozen   what was hot, up to a position of the log, while it is written: each key's row takes
//	         its counts and that position in one transaction, so a second try sees that it did
//	flushed  once all rows are written, the position's own row says so: from there the next start
//	         reads the log, and passes over what a row covers already
//
// Rows take no part in a key's work: without them it works as ever.

// Bounds of what is counted in memory, and of what a kill leaves to read again.
const (
	usageKeys     = 1 << 14         // keys counted at once, 200 bytes each; then rows are written
	usageEvery    = time.Minute     // between two times that rows are written
	usagePace     = time.Second     // between two looks at the log, so that many records cost one
	usageQuiet    = 1 << 20         // records without a use, after which the position is written all the same
	usageAtOnce   = 16              // keys in one transaction, two of keystore.MaxRows each
	usageRest     = 9               // rests behind a transaction, each as long as it took
	usageMostRest = time.Second / 4 // behind one transaction, at most
	usageLast     = 5 * time.Second // for the last rows of a stop
	usageUnsynced = time.Second     // before rows are tried again whose records a power cut could take
)

// usageOps is which operation a record's number counts as.
var usageOps = map[uint16]kmsapi.UsageOperation{
	kmsapi.Decrypt.Number:                             kmsapi.UsedDecrypt,
	kmsapi.DeriveSharedSecret.Number:                  kmsapi.UsedDeriveSharedSecret,
	kmsapi.Encrypt.Number:                             kmsapi.UsedEncrypt,
	kmsapi.GenerateDataKey.Number:                     kmsapi.UsedGenerateDataKey,
	kmsapi.GenerateDataKeyPair.Number:                 kmsapi.UsedGenerateDataKeyPair,
	kmsapi.GenerateDataKeyPairWithoutPlaintext.Number: kmsapi.UsedGenerateDataKeyPairWithoutPlaintext,
	kmsapi.GenerateDataKeyWithoutPlaintext.Number:     kmsapi.UsedGenerateDataKeyWithoutPlaintext,
	kmsapi.GenerateMac.Number:                         kmsapi.UsedGenerateMac,
	kmsapi.ReEncrypt.Number:                           kmsapi.UsedReEncrypt,
	kmsapi.Sign.Number:                                kmsapi.UsedSign,
	kmsapi.Verify.Number:                              kmsapi.UsedVerify,
	kmsapi.VerifyMac.Number:                           kmsapi.UsedVerifyMac,
	kmsapi.Encapsulate.Number:                         kmsapi.UsedEncapsulate,
	kmsapi.Decapsulate.Number:                         kmsapi.UsedDecapsulate,
}

// uses is what a key was used for in a part of the log.
type uses struct {
	first  audit.Position // number of the first record that is counted
	since  api.Time       // when that was
	from   audit.Position // records before it are in the key's row
	counts [kmsapi.UsedDecapsulate + 1]uint64
	total  uint64
	op     kmsapi.UsageOperation // of the last use, and
	time   api.Time
	event  api.EventID
}

// add counts record number n.
func (u *uses) add(n audit.Position, op kmsapi.UsageOperation, g *audit.Glance) {
	if u.total == 0 {
		u.first, u.since = n, api.Time(g.Time)
	}
	u.counts[op]++
	u.total++
	u.op, u.time, u.event = op, api.Time(g.Time), g.Event
}

// usage follows the log. Safe for concurrent use.
type usage struct {
	store    keystore.Store
	log      *audit.Log
	clock    *clock.Clock
	logger   *slog.Logger
	most     int            // keys that are hot
	tracking api.Time       // when tracking began
	replayed audit.Position // records before it were there at the start: rows may cover them
	aim      audit.Position // of the follower alone: how far it reads before it rests
	poke     chan struct{}  // ends the follower's rest
	full     chan struct{}  // asks for rows to be written
	freed    chan struct{}  // they are
	done     chan struct{}  // closed when nothing runs any more

	mu       sync.Mutex // guards all below; never held across a file, a row or another lock
	at       audit.Position
	hot      map[api.KeyID]*uses
	frozen   map[api.KeyID]*uses // nil while nothing is written
	frozenAt audit.Position
	flushed  audit.Position
	more     chan struct{}  // closed when want is reached, or nothing more is counted; nil while nobody waits
	want     audit.Position // the least that anybody waits for
	lost     int            // keys whose uses could not be kept
	err      error          // why nothing more is counted
}

// newUsage begins to count where the rows end. It does not refuse a row that it cannot read, since
// no key's work rests on it: then tracking begins anew.
func newUsage(ctx context.Context, store keystore.Store, log *audit.Log, clk *clock.Clock, logger *slog.Logger) (*usage, error) {
	u := &usage{
		store: store, log: log, clock: clk, logger: logger, most: usageKeys, hot: map[api.KeyID]*uses{},
		poke: make(chan struct{}, 1), full: make(chan struct{}, 1), freed: make(chan struct{}, 1), done: make(chan struct{}),
	}
	u.replayed = log.Durable()
	row, err := u.readPosition(ctx)
	if err != nil && !errors.Is(err, keystore.ErrDamaged) {
		return nil, err
	}
	if err == nil && row != nil && row.Position <= u.replayed {
		u.tracking, u.at, u.flushed = row.Tracking, row.Position, row.Position
		return u, nil
	}
	u.tracking, u.at, u.flushed = api.TimeOf(clk.Now()), u.replayed, u.replayed
	if row != nil || err != nil {
		logger.LogAttrs(ctx, slog.LevelWarn, "the tracking of what keys are used for begins anew: its row and the audit log do not fit", slog.Any("error", err))
	}
	if row != nil {
		u.tracking = max(u.tracking, row.Tracking+1)
	}
	if err := u.putPosition(ctx, u.at); err != nil { // the next start begins anew
		logger.LogAttrs(ctx, slog.LevelWarn, "when the tracking of what keys are used for began is not kept", slog.Any("error", err))
	}
	return u, nil
}

// readPosition returns the position's row, nil if there is none.
func (u *usage) readPosition(ctx context.Context) (row *positionRow, err error) {
	err = u.store.View(ctx, func(r keystore.Reader) error {
		b, err := r.Get(positionName())
		if errors.Is(err, keystore.ErrNotFound) {
			return nil
		}
		if err == nil {
			var p positionRow
			p, err = parsePositionRow(b)
			row = &p
		}
		return err
	})
	return row, err
}

// run counts and writes rows until ctx ends, and then writes what is left.
func (u *usage) run(ctx context.Context) {
	defer close(u.done)
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var followed sync.WaitGroup
	followed.Go(func() { u.follow(following) })
	u.write(ctx)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), usageLast)
	defer cancel()
	_ = u.reach(last, u.log.Durable()) // what it does not reach, the next start does
	stop()
	followed.Wait()
	if err := u.flush(last); err != nil {
		u.logger.LogAttrs(last, slog.LevelWarn, "what keys were used for is counted again at the next start", slog.Any("error", err))
	}
}

// follow counts.
func (u *usage) follow(ctx context.Context) {
	u.aim = u.log.Durable()
	u.mu.Lock()
	from := u.at
	u.mu.Unlock()
	err := u.log.Follow(ctx, from, func(p audit.Position, record []byte) error {
		if p > u.aim {
			if err := u.rest(ctx); err != nil {
				return err
			}
		}
		return u.count(ctx, p-1, record)
	})
	if ctx.Err() == nil && !errors.Is(err, audit.ErrClosed) {
		u.logger.LogAttrs(ctx, slog.LevelError, "what keys are used for is no longer counted", slog.Any("error", err))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
	u.tell()
}

// rest waits, since one look at many records costs less than many looks.
func (u *usage) rest(ctx context.Context) error {
	timer := time.NewTimer(usagePace)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-u.poke:
	case <-ctx.Done():
		return ctx.Err()
	}
	u.aim = u.log.Durable()
	return nil
}

// count counts record number n.
func (u *usage) count(ctx context.Context, n audit.Position, record []byte) error {
	var g audit.Glance
	if err := audit.GlanceAt(record, &g); err != nil {
		return fmt.Errorf("record %d: %w", n, err)
	}
	if op, ok := usageOps[g.Op]; ok && g.Error == 0 {
		for rest := g.Resource; len(rest) > 0; {
			var arn []byte
			arn, rest, _ = bytes.Cut(rest, []byte(" "))
			if ref := api.ParseKeyRef(arn); ref.Form == api.RefKeyARN {
				if err := u.countUse(ctx, n, ref.ID, op, &g); err != nil {
					return err
				}
			}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at = n + 1; u.at >= u.want {
		u.tell()
	}
	return nil
}

// countUse counts one key's part of record number n. Where there is no room, it waits for rows to
// be written.
func (u *usage) countUse(ctx context.Context, n audit.Position, id api.KeyID, op kmsapi.UsageOperation, g *audit.Glance) error {
	for {
		u.mu.Lock()
		known, room := u.hot[id], len(u.hot) < u.most
		if known != nil {
			if n >= known.from {
				known.add(n, op, g)
			}
			u.mu.Unlock()
			return nil
		}
		u.mu.Unlock()
		fresh := new(uses)
		var err error
		if room {
			fresh.from, err = u.covered(ctx, n, id)
		} else {
			err = u.awaitRoom(ctx)
		}
		if err != nil {
			return err
		}
		if room {
			u.mu.Lock()
			u.hot[id] = fresh
			u.mu.Unlock()
		}
	}
}

// covered returns how far a key's row covers the log: only of records that were there at the start
// can that be more than the position's row says.
func (u *usage) covered(ctx context.Context, n audit.Position, id api.KeyID) (from audit.Position, err error) {
	if n >= u.replayed {
		return 0, nil
	}
	err = u.store.View(ctx, func(r keystore.Reader) error {
		row, err := readUsage(r, id)
		if row != nil && err == nil && row.Tracking == u.tracking {
			from = row.Position
		}
		return err
	})
	if errors.Is(err, keystore.ErrDamaged) { // the row is begun anew
		return 0, nil
	}
	return from, err
}

// awaitRoom asks for rows to be written, and waits until they are.
func (u *usage) awaitRoom(ctx context.Context) error {
	tick := time.NewTicker(usagePace) // what could not be written is tried again
	defer tick.Stop()
	for {
		select {
		case u.full <- struct{}{}:
		default:
		}
		select {
		case <-u.freed:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		u.mu.Lock()
		room := len(u.hot) < u.most
		u.mu.Unlock()
		if room {
			return nil
		}
	}
}

// tell wakes who waits. The caller holds mu.
func (u *usage) tell() {
	if u.more != nil {
		close(u.more)
		u.more, u.want = nil, 0
	}
}

// reach waits until everything before p is counted.
func (u *usage) reach(ctx context.Context, p audit.Position) error {
	for {
		u.mu.Lock()
		if u.at >= p || u.err != nil {
			defer u.mu.Unlock()
			if u.at >= p {
				return nil
			}
			return u.err
		}
		if u.more == nil {
			u.more, u.want = make(chan struct{}), p
		}
		u.want = min(u.want, p)
		more := u.more
		u.mu.Unlock()
		select {
		case u.poke <- struct{}{}:
		default:
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// warnings returns what an operator should know.
func (u *usage) warnings() (all []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		all = append(all, "what keys are used for is no longer counted: see the log of the service")
	}
	if u.lost > 0 {
		all = append(all, fmt.Sprintf("what %d keys were used for could not be kept, because their rows are damaged: run keyrack check", u.lost))
	}
	return all
}

// lastUse is what is known of a key's use.
type lastUse struct {
	since  api.Time // uses before it are not known of
	counts [kmsapi.UsedDecapsulate + 1]uint64
	op     kmsapi.UsageOperation // of the last one; 0 = there was none
	time   api.Time
	event  api.EventID
}

// of returns what a key was used for, up to everything that is durable now.
func (u *usage) of(ctx context.Context, id api.KeyID) (l lastUse, err error) {
	if err := u.reach(ctx, u.log.Durable()); err != nil {
		return l, err
	}
	var parts [2]uses // before the row is read: what it covers then is left out
	u.mu.Lock()
	for i, m := range []map[api.KeyID]*uses{u.frozen, u.hot} {
		if known := m[id]; known != nil {
			parts[i] = *known
		}
	}
	u.mu.Unlock()
	var row *usageRow
	err = u.store.View(ctx, func(r keystore.Reader) (err error) {
		row, err = readUsage(r, id)
		return err
	})
	if err != nil {
		return l, err
	}
	l.since = u.tracking
	var covered audit.Position
	if row != nil {
		covered = u.fill(&l, row)
	}
	for i := range parts {
		if p := &parts[i]; p.total > 0 && p.first >= covered {
			l.add(p)
		}
	}
	return l, nil
}

// fill takes what a row says, and returns how far it covers the log. Of an earlier tracking that
// is only the last use.
func (u *usage) fill(l *lastUse, row *usageRow) (covered audit.Position) {
	l.op, l.time, l.event = row.Op, row.Time, api.EventID(row.Event)
	if row.Tracking != u.tracking {
		return 0
	}
	l.since = cmp.Or(max(l.since, row.Since), l.since)
	for op, n := range row.Counts {
		l.counts[op] = n
	}
	return row.Position
}

// add takes later uses into account.
func (l *lastUse) add(p *uses) {
	for op, n := range p.counts {
		l.counts[op] += n
	}
	l.op, l.time, l.event = p.op, p.time, p.event
}
