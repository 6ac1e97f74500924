package kms_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/kms"
	"pgregory.net/rapid"
)

// counted is a log and a store that outlive the processes which count, and what the log says.
type counted struct {
	signer *ecdsa.PrivateKey
	files  *racktest.Platter
	store  keystore.Memory
	clock  *clock.Clock
	step   func(time.Duration)
	cfg    func(*audit.Config)
	log    *audit.Log
	life   *racktest.Power // of the store, in this process
	usage  *kms.Usage
	n      uint64
	wants  map[api.KeyID]*kms.LastUse
}

func usedKey(n int) api.KeyID {
	id := api.KeyID{6: 0x40, 8: 0x80}
	binary.BigEndian.PutUint32(id[:], uint32(n))
	return id
}

func newCounted(tb interface{ Fatal(...any) }, keys, most int) *counted {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &counted{signer: signer, files: racktest.NewPlatter(), store: keystore.NewMemory(), wants: map[api.KeyID]*kms.LastUse{}}
	c.clock, c.step = clock.NewTest(time.Unix(1_700_000_000, 0))
	for n := range keys {
		if _, err := c.store.Update(context.Background(), func(tx keystore.Tx) error { return tx.Put(kms.KeyName(usedKey(n)), []byte("key")) }); err != nil {
			tb.Fatal(err)
		}
		c.wants[usedKey(n)] = &kms.LastUse{Counts: map[kmsapi.UsageOperation]uint64{}}
	}
	c.start(tb, most)
	return c
}

// start is a process, whose store lives long.
func (c *counted) start(tb interface{ Fatal(...any) }, most int) {
	cfg := audit.Config{
		Files: c.files.In(racktest.NewPower(1 << 30)), Origin: "keyrack.test/usage", Clock: c.clock, SegmentBytes: 32 << 10,
		Signer: audit.Signer{Public: &c.signer.PublicKey, SignDigest: func(_ context.Context, digest []byte) ([]byte, error) {
			return ecdsa.SignASN1(rand.Reader, c.signer, digest)
		}},
	}
	if c.cfg != nil {
		c.cfg(&cfg)
	}
	var err error
	if c.log, err = audit.Open(cfg); err != nil {
		tb.Fatal(err)
	}
	c.life = racktest.NewPower(1 << 30)
	if c.usage, err = kms.FollowUsage(mortal{c.store, c.life}, c.log, c.clock, most); err != nil {
		tb.Fatal(err)
	}
}

// kill ends the process.
func (c *counted) kill() {
	c.usage.Kill()
	_ = c.log.Close(context.Background())
}

var ops = map[kmsapi.UsageOperation]uint16{
	kmsapi.UsedEncrypt: kmsapi.Encrypt.Number, kmsapi.UsedDecrypt: kmsapi.Decrypt.Number, kmsapi.UsedReEncrypt: kmsapi.ReEncrypt.Number,
	kmsapi.UsedSign: kmsapi.Sign.Number, kmsapi.UsedDecapsulate: kmsapi.Decapsulate.Number,
}

// record returns the record of a use, and counts it in the model.
func (c *counted) record(op kmsapi.UsageOperation, keys ...api.KeyID) *audit.Record {
	c.n++
	c.step(time.Millisecond)
	r := &audit.Record{Time: c.clock.Now().UnixMicro(), Op: ops[op], Principal: "arn:aws:iam::111122223333:root", Account: "111122223333", RequestID: c.n, Credential: [32]byte{1}}
	binary.BigEndian.PutUint64(r.Event[:], c.n)
	realm := api.Realm{Partition: "aws", Region: "rack-1"}
	for i, id := range keys {
		if i > 0 {
			r.Resource += " "
		}
		r.Resource += realm.KeyARN(racktest.Account, id, false)
		if w := c.wants[id]; w != nil {
			w.Counts[op]++
			w.Op, w.Time, w.Event = op, api.Time(r.Time), r.Event
		}
	}
	return r
}

func (c *counted) append(tb interface{ Fatal(...any) }, records ...*audit.Record) {
	var t audit.Trail
	for _, r := range records {
		t.Add(r)
	}
	p, err := c.log.Append(&t, false)
	if err == nil {
		err = c.log.Wait(context.Background(), p)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// check compares what is known of each key with the log.
func (c *counted) check(tb interface {
	Fatal(...any)
	Errorf(string, ...any)
}) {
	for id, want := range c.wants {
		got, err := c.usage.Of(context.Background(), id)
		if err != nil {
			tb.Fatal(err)
		}
		if !maps.Equal(got.Counts, want.Counts) || got.Op != want.Op || got.Time != want.Time || got.Event != want.Event {
			tb.Errorf("key %v: got %+v, want %+v", id, got, want)
		}
	}
}

// mortal is a store whose process dies: before a transaction, or after it, unheard.
type mortal struct {
	keystore.Store
	*racktest.Power
}

func (m mortal) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	if err := m.Use(); err != nil {
		return 0, err
	}
	rev, err := m.Store.Update(ctx, f)
	if err == nil {
		err = m.Use()
	}
	return rev, err
}

// TestUsageEqualsTheLog: whatever is used, written and killed in whatever order, what is counted
// is what the log says.
func TestUsageEqualsTheLog(t *testing.T) {
	t.Parallel()
	const keys = 20 // two transactions
	rapid.Check(t, func(rt *rapid.T) {
		c := newCounted(rt, keys, 1<<20)
		defer func() { c.kill() }()
		defer func() { c.check(rt) }()
		key := func() api.KeyID { return usedKey(rapid.IntRange(0, keys-1).Draw(rt, "key")) }
		rt.Repeat(map[string]func(*rapid.T){
			"use": func(rt *rapid.T) {
				op := rapid.SampledFrom([]kmsapi.UsageOperation{kmsapi.UsedEncrypt, kmsapi.UsedDecrypt, kmsapi.UsedSign, kmsapi.UsedDecapsulate}).Draw(rt, "op")
				c.append(rt, c.record(op, key()))
			},
			"all": func(rt *rapid.T) {
				for n := range keys {
					c.append(rt, c.record(kmsapi.UsedEncrypt, usedKey(n)))
				}
			},
			"re-encrypt": func(rt *rapid.T) {
				if a, b := key(), key(); a != b {
					c.append(rt, c.record(kmsapi.UsedReEncrypt, a, b))
				}
			},
			"no use": func(rt *rapid.T) {
				refused := c.record(kmsapi.UsedEncrypt)
				refused.Error, refused.Resource = uint16(api.KindDisabled), api.Realm{Partition: "aws", Region: "rack-1"}.KeyARN(racktest.Account, key(), false)
				other := c.record(kmsapi.UsedEncrypt)
				other.Op, other.Resource = kmsapi.DescribeKey.Number, refused.Resource
				c.append(rt, refused, other)
			},
			"flush": func(rt *rapid.T) {
				if err := c.usage.Reach(context.Background()); err != nil {
					rt.Fatal(err)
				}
				if err := c.usage.Flush(); err != nil {
					rt.Fatal(err)
				}
			},
			"a flush that is tried again": func(rt *rapid.T) {
				c.life.Last(rapid.IntRange(1, 8).Draw(rt, "uses"))
				err := c.usage.Flush()
				c.life.Last(1 << 30)
				if err != nil && !errors.Is(err, racktest.ErrKilled) {
					rt.Fatal(err)
				}
			},
			"kill": func(rt *rapid.T) {
				c.life.Last(rapid.IntRange(1, 8).Draw(rt, "uses"))
				if rapid.Bool().Draw(rt, "flushing") {
					_ = c.usage.Flush()
				}
				c.kill()
				c.start(rt, 1<<20)
			},
			"check": func(rt *rapid.T) { c.check(rt) },
		})
	})
}

// TestUsageIsBounded: a thousand keys, of which sixteen fit into memory, over a log that is
// counted from its beginning.
func TestUsageIsBounded(t *testing.T) {
	t.Parallel()
	const keys, most = 1000, 16
	c := newCounted(t, keys, 1<<20)
	for n := range keys {
		c.append(t, c.record(kmsapi.UsedEncrypt, usedKey(n)), c.record(kmsapi.UsedDecrypt, usedKey(n/2)), c.record(kmsapi.UsedSign, usedKey(7)))
	}
	c.kill()
	c.start(t, most)
	defer c.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	seen := make(chan int)
	go func() {
		m := 0
		for ctx.Err() == nil { // also while c.check asks: it may have been too late for the rest
			m = max(m, c.usage.Hot())
		}
		seen <- m
	}()
	if err := c.usage.Reach(ctx); err != nil {
		t.Fatal(err)
	}
	c.check(t)
	cancel()
	if m := <-seen; m > most || m == 0 {
		t.Errorf("%d keys were in memory, at most %d may be", m, most)
	}
}

// TestUsageUnderLoad counts while several goroutines use keys, rows are written and others ask.
func TestUsageUnderLoad(t *testing.T) {
	t.Parallel()
	const keys, workers, each = 8, 4, 200
	c := newCounted(t, keys, 1<<20)
	defer c.kill()
	var users, others sync.WaitGroup
	var mu sync.Mutex
	for w := range workers {
		users.Go(func() {
			for n := range each {
				mu.Lock() // the model's last use is that of the record behind all others
				c.append(t, c.record(kmsapi.UsedEncrypt, usedKey((n+w)%keys)))
				mu.Unlock()
			}
		})
	}
	stop := make(chan struct{})
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := c.usage.Flush(); err != nil {
				t.Error(err)
			}
			if _, err := c.usage.Of(t.Context(), usedKey(1)); err != nil {
				t.Error(err)
			}
		}
	})
	users.Wait()
	close(stop)
	others.Wait()
	c.check(t)
}

// TestUsageBeginsAnew where its position cannot be that of the log, or cannot be read: when it
// began says so, a last use that is known stays known.
func TestUsageBeginsAnew(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(c *counted){
		"position damaged":  func(c *counted) { c.put(t, kms.PositionName(), "x") },
		"position missing":  func(c *counted) { c.remove(t, kms.PositionName()) },
		"log began anew":    func(c *counted) { c.files = racktest.NewPlatter() },
		"position unstated": func(c *counted) { c.put(t, kms.PositionName(), "\xa0") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounted(t, 2, 1<<20)
			c.append(t, c.record(kmsapi.UsedEncrypt, usedKey(0)), c.record(kmsapi.UsedEncrypt, usedKey(0)))
			before, err := c.usage.Of(t.Context(), usedKey(0))
			if err != nil || before.Counts[kmsapi.UsedEncrypt] != 2 {
				t.Fatalf("got %+v, %v", before, err)
			}
			if err := c.usage.Flush(); err != nil {
				t.Fatal(err)
			}
			c.kill()
			c.step(time.Hour)
			change(c)
			c.start(t, 1<<20)
			defer c.kill()
			got, err := c.usage.Of(t.Context(), usedKey(0))
			if err != nil || got.Since < before.Since+api.Time(time.Hour.Microseconds()) || len(got.Counts) != 0 || got.Event != before.Event {
				t.Errorf("after it began anew: %+v, %v", got, err)
			}
			c.append(t, c.record(kmsapi.UsedSign, usedKey(0)))
			for range 2 { // from memory, and from the row
				got, err = c.usage.Of(t.Context(), usedKey(0))
				if err != nil || len(got.Counts) != 1 || got.Counts[kmsapi.UsedSign] != 1 || got.Op != kmsapi.UsedSign {
					t.Errorf("used again: %+v, %v", got, err)
				}
				if err := c.usage.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func (c *counted) put(tb testing.TB, n keystore.Name, value string) {
	tb.Helper()
	if _, err := c.store.Update(context.Background(), func(tx keystore.Tx) error { return tx.Put(n, []byte(value)) }); err != nil {
		tb.Fatal(err)
	}
}

func (c *counted) remove(tb testing.TB, n keystore.Name) {
	tb.Helper()
	if _, err := c.store.Update(context.Background(), func(tx keystore.Tx) error { return tx.Delete(n) }); err != nil {
		tb.Fatal(err)
	}
}

// TestUsageRowDamaged begins a row anew that cannot be read, and leaves the others as they are.
func TestUsageRowDamaged(t *testing.T) {
	t.Parallel()
	c := newCounted(t, 20, 1<<20)
	defer func() { c.kill() }()
	for n := range 20 {
		c.append(t, c.record(kmsapi.UsedEncrypt, usedKey(n)))
	}
	if err := errors.Join(c.usage.Reach(t.Context()), c.usage.Flush()); err != nil {
		t.Fatal(err)
	}
	c.put(t, kms.UsageName(usedKey(3)), "\xa1\x00\x01")
	if _, err := c.usage.Of(t.Context(), usedKey(3)); !errors.Is(err, keystore.ErrDamaged) {
		t.Errorf("damaged row: %v", err)
	}
	for n := range 20 {
		c.append(t, c.record(kmsapi.UsedDecrypt, usedKey(n)))
	}
	c.kill() // the next process reads rows again, and must pass over that one
	c.start(t, 1<<20)
	if err := errors.Join(c.usage.Reach(t.Context()), c.usage.Flush()); err != nil {
		t.Fatal(err)
	}
	delete(c.wants[usedKey(3)].Counts, kmsapi.UsedEncrypt)
	c.check(t)
}

// TestUsageOfDeletedKeys: what was counted of a key that is gone is not written.
func TestUsageOfDeletedKeys(t *testing.T) {
	t.Parallel()
	c := newCounted(t, 2, 1<<20)
	defer c.kill()
	c.append(t, c.record(kmsapi.UsedEncrypt, usedKey(0)), c.record(kmsapi.UsedEncrypt, usedKey(1)))
	if err := errors.Join(c.usage.Reach(t.Context()), c.usage.Flush()); err != nil {
		t.Fatal(err)
	}
	c.append(t, c.record(kmsapi.UsedEncrypt, usedKey(0)), c.record(kmsapi.UsedEncrypt, usedKey(1)))
	if err := c.usage.Reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.store.Update(t.Context(), func(tx keystore.Tx) error {
		return errors.Join(tx.Delete(kms.KeyName(usedKey(0))), tx.Delete(kms.UsageName(usedKey(0))))
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.usage.Flush(); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]error{0: keystore.ErrNotFound, 1: nil} {
		err := c.store.View(t.Context(), func(r keystore.Reader) error {
			_, err := r.Get(kms.UsageName(usedKey(n)))
			return err
		})
		if !errors.Is(err, want) {
			t.Errorf("row of key %d: %v, want %v", n, err, want)
		}
	}
}

// TestUsageWritten: with durability "written", no row covers records that a power cut can take.
func TestUsageWritten(t *testing.T) {
	t.Parallel()
	c := newCounted(t, 2, 1<<20)
	c.kill()
	c.cfg = func(cfg *audit.Config) { cfg.Durability, cfg.CheckpointEvery = audit.Written, time.Hour }
	c.start(t, 1<<20)
	for range 2 { // the first may ride in the checkpoint of the start, the second waits for an hour
		c.append(t, c.record(kmsapi.UsedEncrypt, usedKey(0)))
		if err := c.usage.Reach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.usage.Reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.usage.Flush(); !errors.Is(err, kms.ErrUnsynced) {
		t.Errorf("flush of records that are not synced: %v", err)
	}
	c.check(t)
	c.kill()
	c.start(t, 1<<20)
	defer c.kill()
	c.check(t)
}

// TestUsageCountsWithoutAllocating: a record costs no memory once its key is hot, and 200,000
// of them little time.
func TestUsageCountsWithoutAllocating(t *testing.T) {
	c := newCounted(t, 1, 1<<20)
	defer c.kill()
	record := audit.AppendRecord(nil, c.record(kmsapi.UsedEncrypt, usedKey(0)))
	n := c.log.Durable() + 1<<20
	if allocs := testing.AllocsPerRun(1000, func() {
		n++
		if err := c.usage.CountRecord(n, record); err != nil {
			t.Fatal(err)
		}
	}); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkUsageCount(b *testing.B) {
	c := newCounted(b, 1, 1<<20)
	defer c.kill()
	record := audit.AppendRecord(nil, c.record(kmsapi.UsedEncrypt, usedKey(0)))
	n := c.log.Durable() + 1<<20
	b.ReportAllocs()
	for b.Loop() {
		n++
		if err := c.usage.CountRecord(n, record); err != nil {
			b.Fatal(err)
		}
	}
}
