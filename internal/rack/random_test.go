package rack_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
)

// drawn counts the random bytes that a token gives, or refuses them.
type drawn struct {
	hsm.Provider
	bytes *atomic.Int64
	err   error
}

func (d drawn) Random(ctx context.Context, p []byte) error {
	d.bytes.Add(int64(len(p)))
	return errors.Join(d.err, d.Provider.Random(ctx, p))
}

// TestTokenRandomness: making and starting an appliance begin with random bytes of the token, and end where it has none.
func TestTokenRandomness(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "r")
	create, _, err := rack.ParseToken("soft", dir)
	if err != nil {
		t.Fatal(err)
	}
	d := drawn{bytes: new(atomic.Int64)}
	cfg := rack.Config{Dir: dir, Logger: racktest.Logger(t), AllowUnlockedMemory: true, AuditBytes: 16 << 20,
		Token: func(ctx context.Context) (hsm.Provider, error) {
			p, err := create(ctx)
			return drawn{p, d.bytes, d.err}, err
		}}
	d.err = errors.New("no noise")
	if _, err := rack.Create(t.Context(), cfg); !errors.Is(err, d.err) {
		t.Errorf("made with a token without randomness: %v", err)
	}
	d.err = nil
	if _, err := rack.Create(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if n := d.bytes.Swap(0); n < 64 {
		t.Errorf("making drew %d bytes", n)
	}
	a, err := rack.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if n := d.bytes.Swap(0); n < 64 {
		t.Errorf("starting drew %d bytes", n)
	}
	d.err = errors.New("no noise")
	if _, err := rack.Start(t.Context(), cfg); !errors.Is(err, d.err) {
		t.Errorf("started with a token without randomness: %v", err)
	}
}
