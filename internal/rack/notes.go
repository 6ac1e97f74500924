package rack

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyrack/keyrack/hsm"
)

// notesName is the file of the keys that an attempt to make an appliance makes in the token: a line of hex for each
// plan, or blob. A chip has room for few keys, so an attempt that failed, or that was cut off, must not leave its own there. It
// goes when the folder holds an appliance, at once or at the next start, and says nothing there: a key that is in use is never ended by it.
const notesName = "keys.new"

// noting is a token whose new keys are noted before they are made, or, where the token cannot plan, before anybody has them.
type noting struct {
	hsm.Provider
	dir string
}

// Generate implements hsm.Provider.
func (n noting) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	planner, ok := n.Provider.(hsm.Planner)
	if !ok {
		return n.generate(ctx, spec)
	}
	plan, err := planner.Plan(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	if err := note(n.dir, plan); err != nil {
		return nil, nil, fmt.Errorf("note the key: %w", err)
	}
	return planner.Make(ctx, spec, plan)
}

// generate is Generate with a token that cannot plan.
func (n noting) generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	k, blob, err := n.Provider.Generate(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	if err := note(n.dir, blob); err != nil {
		err = fmt.Errorf("note the key: %w", err)
		return nil, nil, errors.Join(err, k.Close(), n.Destroy(context.WithoutCancel(ctx), blob))
	}
	return k, blob, nil
}

// note writes a blob down, durably.
func note(dir string, blob []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, notesName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(hex.AppendEncode([]byte("\n"), blob)) // after half a line that a cut left
	return errors.Join(err, f.Sync(), f.Close(), syncDir(dir))
}

// undo destroys the keys that are noted. One that this token does not have, or no longer, is none of its business.
func (n noting) undo(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(n.dir, notesName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		blob, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil || len(blob) == 0 {
			continue // half a line
		}
		if err := n.Destroy(ctx, blob); err != nil && !errors.Is(err, hsm.ErrBlob) {
			return fmt.Errorf("destroy the keys of an attempt before: %w", err)
		}
	}
	return forgetNotes(n.dir)
}

// forgetNotes ends the notes.
func forgetNotes(dir string) error {
	err := os.Remove(filepath.Join(dir, notesName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(dir))
}
