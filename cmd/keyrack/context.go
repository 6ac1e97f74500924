package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/keyrack/keyrack/api"
)

// encryptionContext is what --context and --from-context collect. A pair given twice is refused: which
// of the two is meant would be a guess.
type encryptionContext map[string]string

// contextFlag declares --context, or another flag that collects pairs.
func contextFlag(fs *flag.FlagSet, name, usage string) encryptionContext {
	c := encryptionContext{}
	fs.Var(c, name, usage)
	return c
}

// String is part of flag.Value; there is no default to show.
func (c encryptionContext) String() string { return "" }

// Set adds a pair.
func (c encryptionContext) Set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want key=value")
	}
	if _, twice := c[key]; twice {
		return fmt.Errorf("the key %q was given before", key)
	}
	c[key] = value
	return nil
}

// encode returns the context as it is sent, nil if no pair was given.
func (c encryptionContext) encode() api.EncryptionContext {
	if len(c) == 0 {
		return nil
	}
	return api.NewEncryptionContext(c)
}
