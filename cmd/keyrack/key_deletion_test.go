package main_test

import (
	"strings"
	"testing"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestDryRunAsksTheSameAppliance gives the socket of another appliance, in whose log nobody
// used the key: that must not look as if nobody needed it.
func TestDryRunAsksTheSameAppliance(t *testing.T) {
	t.Parallel()
	env := asMap(racktest.Start(t))
	_, key, _ := keyrack.Run(env, "key", "create")
	env[client.EnvSocket] = racktest.Start(t).Socket()
	status, out, stderr := keyrack.Run(env, "key", "schedule-deletion", strings.TrimSpace(key), "--dry-run")
	if status != 0 || !strings.Contains(out, "another appliance") || strings.Contains(out, "nobody") {
		t.Errorf("status %d, printed %q and %q", status, out, stderr)
	}
}

// TestUnknownUseIsNoLeave gives up a key of which the appliance cannot say when it was used last.
func TestUnknownUseIsNoLeave(t *testing.T) {
	t.Parallel()
	if err := keyrack.PermitDeletion("its row is damaged", false); err == nil || !strings.Contains(err.Error(), "its row is damaged") {
		t.Errorf("without --force: %v", err)
	}
	if err := keyrack.PermitDeletion("its row is damaged", true); err != nil {
		t.Errorf("with --force: %v", err)
	}
}
