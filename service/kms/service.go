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
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Service holds the keys. Safe for concurrent use.
type Service struct {
	store      keystore.Store
	time       Time
	realm      api.Realm
	logger     *slog.Logger
	markers    [32]byte // MAC key of page markers: it guards no secret
	importKey  *securemem.Buffer
	imports    sync.Map // api.KeyID: an import into the key is under way
	keys       *cache
	packed     *packed
	aliases    *aliases
	expansions expansions
	pasts      pasts
	due        due
	used       *usage
	lattices   expansions   // of ML-DSA and ML-KEM, which take far more memory
	mostKeys   uint64       // of one account
	damaged    atomic.Int64 // materials found changed in memory
	counted    sync.Map     // api.AccountID: the account has a row that counts its keys
	caughtUp   sync.Once
	ready      chan struct{} // closed when the watch has caught up
	ended      chan error    // the watch's end
}

// Config is what a Service stands on. All members but the sizes are required.
type Config struct {
	Store     keystore.Store // seals its values
	Log       *audit.Log     // what keys are used for is read from it; it must outlive the service
	Realm     api.Realm
	Clock     *clock.Clock
	Time      Time
	Logger    *slog.Logger
	MarkerKey [32]byte          // MAC key of the markers of pages: FORMAT.md, "Markers"
	ImportKey *securemem.Buffer // 32 bytes that seal import tokens: FORMAT.md, "Import"; the caller's, used until Wait returns

	MaxKeys       int // of one account; 0 = api.MaxKeys
	PackedKeys    int // keys kept sealed in memory besides, at most; 0 = api.PackedKeys
	CachedKeys    int // keys kept in memory, at most; 0 = api.CachedKeys
	CachedAliases int // aliases kept in memory; 0 = api.CachedAliases
}

// New returns a service, which follows the store's changes until ctx ends. From
// the end of that watch on, for whatever reason, no key is served from memory.
func New(ctx context.Context, cfg Config) (*Service, error) {
	most, room := cmp.Or(cfg.CachedKeys, api.CachedKeys), lockedRoom()
	s := &Service{
		store: cfg.Store, time: cfg.Time, realm: cfg.Realm, logger: cfg.Logger, markers: cfg.MarkerKey, importKey: cfg.ImportKey,
		keys: newCache(most, room), aliases: newAliases(cmp.Or(cfg.CachedAliases, api.CachedAliases)), ready: make(chan struct{}), ended: make(chan error, 1),
		expansions: expansions{ring[material, *material]{most: api.ExpandedKeys}}, lattices: expansions{ring[material, *material]{most: api.ExpandedLattices}},
		pasts: pasts{most: max(1, min(most, room/securemem.Taken(1))/2)}, mostKeys: uint64(cmp.Or(cfg.MaxKeys, api.MaxKeys)),
	}
	s.due.init()
	packed, err := newPacked(cmp.Or(cfg.PackedKeys, api.PackedKeys))
	if err != nil {
		return nil, err
	}
	s.packed = packed
	var now keystore.Revision
	if err := s.store.View(ctx, func(r keystore.Reader) error { now = r.Revision(); return nil }); err != nil {
		return nil, fmt.Errorf("read the store's revision: %w", err)
	}
	go s.follow(ctx, now)
	select { // before that, a change would not wait for this service to hear of it
	case <-s.ready:
	case err := <-s.ended:
		return nil, fmt.Errorf("follow the store: %w", err)
	}
	if s.used, err = newUsage(ctx, cfg.Store, cfg.Log, cfg.Clock, cfg.Logger); err != nil {
		return nil, fmt.Errorf("read what keys are used for: %w", err)
	}
	go s.used.run(ctx)
	go s.sweep(ctx, cfg.Clock)
	return s, nil
}

// lockedRoom is how many bytes the secrets of keys in memory may take: a quarter of the
// locked memory that the process may have, because a key that was evicted keeps its place
// there until the collector has seen that nobody uses it.
func lockedRoom() int { return securemem.Status().Limit / 4 }

// follow hears of the store's changes until ctx ends.
func (s *Service) follow(ctx context.Context, after keystore.Revision) {
	err := s.store.Watch(ctx, after, s.changed)
	s.keys.close()
	s.packed.close()
	s.aliases.close()
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
	return append(refused(g),
		access.Handle(g, kmsapi.CreateKey, s.CreateKey),
		access.Handle(g, kmsapi.Encrypt, s.Encrypt),
		access.Handle(g, kmsapi.Decrypt, s.Decrypt),
		access.Handle(g, kmsapi.DescribeKey, s.DescribeKey),
		access.Handle(g, kmsapi.ListKeys, s.ListKeys),
		access.Handle(g, kmsapi.EnableKey, s.EnableKey),
		access.Handle(g, kmsapi.DisableKey, s.DisableKey),
		access.Handle(g, kmsapi.CreateAlias, s.CreateAlias),
		access.Handle(g, kmsapi.UpdateAlias, s.UpdateAlias),
		access.Handle(g, kmsapi.DeleteAlias, s.DeleteAlias),
		access.Handle(g, kmsapi.ListAliases, s.ListAliases),
		access.Handle(g, kmsapi.GenerateDataKey, s.GenerateDataKey),
		access.Handle(g, kmsapi.GenerateDataKeyWithoutPlaintext, s.GenerateDataKeyWithoutPlaintext),
		access.Handle(g, kmsapi.GenerateRandom, s.GenerateRandom),
		access.Handle(g, kmsapi.ReEncrypt, s.ReEncrypt),
		access.Handle(g, kmsapi.UpdateKeyDescription, s.UpdateKeyDescription),
		access.Handle(g, kmsapi.TagResource, s.TagResource),
		access.Handle(g, kmsapi.UntagResource, s.UntagResource),
		access.Handle(g, kmsapi.ListResourceTags, s.ListResourceTags),
		access.Handle(g, kmsapi.GenerateMac, s.GenerateMac),
		access.Handle(g, kmsapi.VerifyMac, s.VerifyMac),
		access.Handle(g, kmsapi.Sign, s.Sign),
		access.Handle(g, kmsapi.Verify, s.Verify),
		access.Handle(g, kmsapi.GetPublicKey, s.GetPublicKey),
		access.Handle(g, kmsapi.GetParametersForImport, s.GetParametersForImport),
		access.Handle(g, kmsapi.ImportKeyMaterial, s.ImportKeyMaterial),
		access.Handle(g, kmsapi.DeleteImportedKeyMaterial, s.DeleteImportedKeyMaterial),
		access.Handle(g, kmsapi.ScheduleKeyDeletion, s.ScheduleKeyDeletion),
		access.Handle(g, kmsapi.CancelKeyDeletion, s.CancelKeyDeletion),
		access.Handle(g, kmsapi.RotateKeyOnDemand, s.RotateKeyOnDemand),
		access.Handle(g, kmsapi.EnableKeyRotation, s.EnableKeyRotation),
		access.Handle(g, kmsapi.DisableKeyRotation, s.DisableKeyRotation),
		access.Handle(g, kmsapi.GetKeyRotationStatus, s.GetKeyRotationStatus),
		access.Handle(g, kmsapi.ListKeyRotations, s.ListKeyRotations),
		access.Handle(g, kmsapi.Encapsulate, s.Encapsulate),
		access.Handle(g, kmsapi.Decapsulate, s.Decapsulate),
		access.Handle(g, kmsapi.DeriveSharedSecret, s.DeriveSharedSecret),
		access.Handle(g, kmsapi.GenerateDataKeyPair, s.GenerateDataKeyPair),
		access.Handle(g, kmsapi.GenerateDataKeyPairWithoutPlaintext, s.GenerateDataKeyPairWithoutPlaintext),
		access.Handle(g, kmsapi.ReplicateKey, s.ReplicateKey),
		access.Handle(g, kmsapi.UpdatePrimaryRegion, s.UpdatePrimaryRegion),
		access.Handle(g, kmsapi.DescribeCustomKeyStores, s.DescribeCustomKeyStores),
		access.Handle(g, kmsapi.GetKeyLastUsage, s.GetKeyLastUsage),
	)
}

// Warnings returns what an operator should know of the keys in memory.
func (s *Service) Warnings() []string {
	all := append(s.due.warnings(), s.used.warnings()...)
	if n := s.damaged.Load(); n > 0 {
		all = append(all, fmt.Sprintf("key material in memory was found changed %d times: the machine's memory is not reliable; use memory with error correction", n))
	}
	return all
}

// Wait returns when the service has stopped following the store, and has written what keys were
// used for.
func (s *Service) Wait() error {
	err := <-s.ended
	<-s.used.done
	return err
}

// changed drops the snapshots that a change has made old. The first call has no
// changes: it says that from now on every one is delivered before its Update returns.
func (s *Service) changed(rev keystore.Revision, changes []keystore.Change) error {
	s.caughtUp.Do(func() { close(s.ready) })
	for _, c := range changes {
		if id, ok := keyOfRow(c.Name); ok {
			s.packed.drop(id, rev)
			s.keys.drop(id, rev)
		} else if id, ok := aliasOfRow(c.Name); ok {
			s.aliases.drop(id, rev)
		} else if c.Name.Space() == keystore.SpaceDue && !c.Deleted {
			s.due.put(c.Name)
		}
	}
	s.packed.delivered.Store(uint64(rev))
	return nil
}
