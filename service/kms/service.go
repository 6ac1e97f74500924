// Package kms is AWS KMS on this appliance: keys, and what is encrypted under
// them.
//
// Read first: encrypt.go, what every operation looks like; [Service]; key.go
// and material.go, the snapshot of a key that a request works with.
//
// It reads no socket and knows no token or engine: records come from a
// keystore.Store that seals them. Rows: FORMAT.md.
package kms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// Service holds the keys. Safe for concurrent use.
type Service struct {
	store    keystore.Store
	realm    api.Realm
	logger   *slog.Logger
	keys     *cache
	damaged  atomic.Int64 // materials found changed in memory
	caughtUp sync.Once
	ready    chan struct{} // closed when the watch has caught up
	ended    chan error    // the watch's end
}

// New returns a service over a store that seals its values, and follows the
// store's changes until ctx ends. From the end of that watch on, for whatever
// reason, no key is served from memory.
func New(ctx context.Context, store keystore.Store, realm api.Realm, clk *clock.Clock, logger *slog.Logger) (*Service, error) {
	s := &Service{store: store, realm: realm, logger: logger, keys: newCache(cacheSize()), ready: make(chan struct{}), ended: make(chan error, 1)}
	var now keystore.Revision
	if err := store.View(ctx, func(r keystore.Reader) error { now = r.Revision(); return nil }); err != nil {
		return nil, fmt.Errorf("read the store's revision: %w", err)
	}
	go s.follow(ctx, now)
	select { // before that, a change would not wait for this service to hear of it
	case <-s.ready:
	case err := <-s.ended:
		return nil, fmt.Errorf("follow the store: %w", err)
	}
	go s.sweep(ctx, clk)
	return s, nil
}

// cacheSize is how many keys are kept: no more than fill a quarter of the locked
// memory that the process may have, because a key that was evicted keeps its
// place there until the collector has seen that nobody uses it.
func cacheSize() int {
	return min(api.CachedKeys, max(1, securemem.Status().Limit/4/materialLen))
}

// follow hears of the store's changes until ctx ends.
func (s *Service) follow(ctx context.Context, after keystore.Revision) {
	err := s.store.Watch(ctx, after, s.changed)
	s.keys.close()
	if err != nil && !errors.Is(err, context.Canceled) {
		s.logger.LogAttrs(ctx, slog.LevelError, "keys are no longer cached: the store's changes cannot be followed", slog.Any("error", err))
	}
	s.ended <- err
}

// sweep lets go of message keys whose life is over.
func (s *Service) sweep(ctx context.Context, clk *clock.Clock) {
	tick := time.NewTicker(api.MessageKeyLife)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.keys.expire(clk.Now())
		case <-ctx.Done():
			return
		}
	}
}

// Routes returns the service's operations behind the gate.
func (s *Service) Routes(g *access.Gate) []access.Route {
	return []access.Route{
		access.Handle(g, kmsapi.CreateKey, s.CreateKey),
		access.Handle(g, kmsapi.Encrypt, s.Encrypt),
		access.Handle(g, kmsapi.Decrypt, s.Decrypt),
	}
}

// Warnings returns what an operator should know of the keys in memory.
func (s *Service) Warnings() []string {
	if n := s.damaged.Load(); n > 0 {
		return []string{fmt.Sprintf("key material in memory was found changed %d times: the machine's memory is not reliable; use memory with error correction", n)}
	}
	return nil
}

// Wait returns when the service has stopped following the store.
func (s *Service) Wait() error { return <-s.ended }

// changed drops the snapshots that a change has made old. The first call has no
// changes: it says that from now on every one is delivered before its Update returns.
func (s *Service) changed(rev keystore.Revision, changes []keystore.Change) error {
	s.caughtUp.Do(func() { close(s.ready) })
	for _, c := range changes {
		if id, ok := keyOfRow(c.Name); ok {
			s.keys.drop(id, rev)
		}
	}
	return nil
}

// resolve returns the key that ref names for the caller of c. Unknown keys, and
// keys that the caller may not know of, are one answer (AWS KMS developer guide,
// "Key identifiers"): by key ARN of another account AccessDenied, else NotFound.
func (s *Service) resolve(c *access.Call, ref *api.KeyRef) (*key, error) {
	switch ref.Form {
	case api.RefAlias, api.RefAliasARN:
		return nil, s.noAlias(c, ref)
	case api.RefKeyID, api.RefKeyARN:
	default:
		return nil, api.Errorf(api.KindNotFound, "Invalid keyId '%s': want a key id, a key ARN, an alias name or an alias ARN", ref)
	}
	account := c.Account()
	if ref.Form == api.RefKeyARN {
		account = ref.Account
	}
	k, err := s.key(c, ref.ID)
	if err != nil {
		return nil, err
	}
	if k != nil && ref.In(s.realm) && k.account == account && k.multi == ref.Multi {
		return k, nil
	}
	if account != c.Account() {
		return nil, c.Denied(c.Op(), ref.String())
	}
	if !ref.In(s.realm) {
		return nil, api.Errorf(api.KindNotFound, "Invalid arn %s: this appliance is partition %s, region %s", ref, s.realm.Partition, s.realm.Region)
	}
	return nil, api.Errorf(api.KindNotFound, "Key '%s' does not exist", s.realm.KeyARN(account, ref.ID, ref.Multi))
}

// noAlias answers a reference by alias: there is no operation that makes one.
func (s *Service) noAlias(c *access.Call, ref *api.KeyRef) error {
	account := c.Account()
	if ref.Form == api.RefAliasARN {
		account = ref.Account
	}
	if account != c.Account() {
		return c.Denied(c.Op(), ref.String())
	}
	return api.Errorf(api.KindNotFound, "Alias arn:%s:kms:%s:%s:%s is not found.", s.realm.Partition, s.realm.Region, account, ref.Alias)
}

// key returns the snapshot of a key, or nil if there is none. A key that is not
// in memory is read by a worker.
func (s *Service) key(c *access.Call, id api.KeyID) (*key, error) {
	if k := s.keys.get(id); k != nil {
		return k, nil
	}
	if err := c.Need(work.Store); err != nil {
		return nil, err
	}
	return s.load(c.Context(), id)
}

// load reads a key from the store and keeps its snapshot, unless a later change
// was delivered meanwhile.
func (s *Service) load(ctx context.Context, id api.KeyID) (*key, error) {
	var k *key
	var seen keystore.Revision
	err := s.store.View(ctx, func(r keystore.Reader) (err error) {
		seen = r.Revision()
		k, err = s.readKey(r, id)
		return err
	})
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if errors.Is(err, securemem.ErrFull) {
		return nil, s.noMemory(err)
	}
	if err != nil {
		return nil, api.Internal(fmt.Errorf("load key %s: %w", id, err))
	}
	s.keys.put(k, seen)
	return k, nil
}

// noMemory answers when the locked memory is full: keys that nobody uses make
// room, which the next try finds.
func (s *Service) noMemory(err error) error {
	s.keys.shed()
	runtime.GC() // their memory is freed once the collector has seen that nobody uses it
	return &api.Error{Kind: api.KindUnavailable, Reason: "memory", RetryAfter: 100 * time.Millisecond, Err: err,
		Message: "the locked memory for keys is full; try again, and let the operator raise its limit"}
}
