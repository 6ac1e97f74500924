//go:build !cgo

package pkcs11

import (
	"context"

	"github.com/keyrack/keyrack/hsm"
)

// Open returns ErrNotBuilt: a module is a C library.
func Open(context.Context, Config) (hsm.Provider, error) { return nil, ErrNotBuilt }

// List returns ErrNotBuilt: a module is a C library.
func List(context.Context, string) ([]Report, error) { return nil, ErrNotBuilt }
