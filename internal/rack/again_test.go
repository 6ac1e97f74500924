package rack_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// stubborn is a token that destroys nothing as long as it is told so.
type stubborn struct {
	hsm.Provider
	refuse *atomic.Bool
}

func (s stubborn) Destroy(ctx context.Context, blob []byte) error {
	if s.refuse.Load() {
		return errors.New("the token is busy")
	}
	return s.Provider.Destroy(ctx, blob)
}

// TestRotateAgain rotates while the token does not end the old root. The rotation counts, says so and is not over;
// asked again, the appliance goes on with it and does not wait for its next start.
func TestRotateAgain(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	r := racktest.Start(t, racktest.OnDisk)
	r.Restart(func(cfg *rack.Config) {
		open := cfg.Token
		cfg.Token = func(ctx context.Context) (hsm.Provider, error) {
			token, err := open(ctx)
			return stubborn{token, &refuse}, err
		}
	})
	rotate := func() error {
		_, err := client.Do(t.Context(), r.Operator, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
		return err
	}
	refuse.Store(true)
	if err := rotate(); api.KindOf(err) != api.KindInternal {
		t.Errorf("with a token that destroys nothing: %v", err)
	}
	refuse.Store(false)
	if err := rotate(); err != nil && api.KindOf(err) != api.KindInvalidState { // nil: it was over already
		t.Errorf("asked again: %v", err)
	}
	for {
		status, err := client.Do(t.Context(), r.Operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if !status.Rotating {
			return
		}
	}
}
