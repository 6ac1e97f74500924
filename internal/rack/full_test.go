package rack_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
)

// fullStore is a store on a medium that may be full. It outlives its appliance.
type fullStore struct {
	keystore.Store
	full atomic.Bool
}

func (s *fullStore) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	if s.full.Load() {
		return 0, fmt.Errorf("%w: not a page is left", keystore.ErrFull)
	}
	return s.Store.Update(ctx, f)
}

func (s *fullStore) Close() error { return nil }

// TestStartOnAFullDisk starts an appliance whose medium is full, with the record of a change still in the outbox: what
// was encrypted must be had back. When there is room again, it goes on as if nothing had been, without another start.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	below := &fullStore{Store: keystore.NewMemory()}
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.Store = below })
	arn := r.CreateKey()
	below.full.Store(true)
	r.Restart(nil)
	if err := use(r.Client, arn, false); err != nil {
		t.Errorf("on a full medium: %v", err)
	}
	below.full.Store(false)
	if err := use(r.Client, arn, true); err != nil {
		t.Errorf("with room again: %v", err)
	}
	for rows := 1; rows > 0; {
		rows = 0
		err := r.Appliance.Records().View(t.Context(), func(v keystore.Reader) error {
			for _, err := range v.Scan(keystore.Range(keystore.SpaceOutbox)) {
				if err != nil {
					return err
				}
				rows++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
