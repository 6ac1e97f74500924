//go:build !cgo

package pkcs11_test

import (
	"errors"
	"testing"

	"github.com/keyrack/keyrack/hsm/pkcs11"
)

func TestThisBuildSaysThatItHasNone(t *testing.T) {
	t.Parallel()
	if p, err := pkcs11.Open(t.Context(), pkcs11.Config{}); !errors.Is(err, pkcs11.ErrNotBuilt) || p != nil {
		t.Errorf("Open returned %v, %v", p, err)
	}
}
