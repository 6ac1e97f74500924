package rack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/soft"
)

// ErrToken says that a token's specification makes no sense.
var ErrToken = errors.New("rack: unknown kind of token")

// ParseToken returns how to make and how to open the token that a specification
// names: "soft" is a file in the data folder dir, "soft:PATH" one elsewhere, where a copy
// of the folder does not take it along. create takes a token that is there already, because
// an attempt to make an appliance may have been cut off.
func ParseToken(spec, dir string) (create, open hsm.Opener, err error) {
	kind, path, named := strings.Cut(spec, ":")
	switch {
	case kind != "soft":
		return nil, nil, fmt.Errorf("%w: %q; use soft or soft:PATH", ErrToken, spec)
	case !named:
		path = filepath.Join(dir, tokenName)
	case path == "":
		return nil, nil, fmt.Errorf("%w: %q names no file", ErrToken, spec)
	}
	open = func(context.Context) (hsm.Provider, error) { return soft.Open(path) }
	create = func(ctx context.Context) (hsm.Provider, error) {
		t, err := soft.Create(path)
		if errors.Is(err, fs.ErrExist) {
			return open(ctx)
		}
		return t, err
	}
	return create, open, nil
}
