package tpm2_test

import (
	"context"
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(t *testing.T) hsm.Opener {
		path := swtpm.Start(t).Path()
		return func(ctx context.Context) (hsm.Provider, error) { return tpm2.Open(ctx, tpm2.Config{Path: path}) }
	})
}
