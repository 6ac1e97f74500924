package hsm

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Opener opens one configured token. Path, module, slot and PIN are its maker's: no caller names them.
type Opener func(ctx context.Context) (Provider, error)

// Set is the tokens that the operator configured, by name. It is immutable and safe for concurrent use; the zero Set has
// none.
type Set struct{ openers map[string]Opener }

// NewSet returns a Set of the given openers. It keeps a copy of the map.
func NewSet(openers map[string]Opener) Set { return Set{maps.Clone(openers)} }

// Names returns the configured names in ascending order.
func (s Set) Names() []string { return slices.Sorted(maps.Keys(s.openers)) }

// Open opens the token of that name. The caller closes it. It returns an error that wraps ErrUnknown, or what the opener
// returned.
func (s Set) Open(ctx context.Context, name string) (Provider, error) {
	open, ok := s.openers[name]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, name)
	}
	p, err := open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open token %q: %w", name, err)
	}
	return p, nil
}
