//go:build !cgo

package remote_test

import (
	"testing"

	"github.com/keyrack/keyrack/hsm/pkcs11"
	"github.com/keyrack/keyrack/hsm/remote"
)

// noModule is what a module that is not there is called: without cgo there is none.
var noModule = pkcs11.ErrNotBuilt

// tokens are one of each kind that this build has.
func tokens(t *testing.T) map[string]remote.Config {
	t.Helper()
	return map[string]remote.Config{"soft": config(softSpec(t))}
}
