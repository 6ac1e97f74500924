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

// notesName is the file of the keys that an attempt to make an appliance makes in the token: a line for each, in hex its token and its
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
	if err := n.note(plan); err != nil {
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
	if err := n.note(blob); err != nil {
		err = fmt.Errorf("note the key: %w", err)
		return nil, nil, errors.Join(err, k.Close(), n.Destroy(context.WithoutCancel(ctx), blob))
	}
	return k, blob, nil
}

// owner tells the token from others. One that cannot plan is a file, which its keys are gone with: it is not told.
func (n noting) owner() string {
	if _, ok := n.Provider.(hsm.Planner); !ok {
		return "-"
	}
	d := n.Describe()
	return d.Kind + " " + d.Serial
}

// note writes a blob down, durably.
func (n noting) note(blob []byte) error {
	f, err := os.OpenFile(filepath.Join(n.dir, notesName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "\n%x %x", n.owner(), blob) // after half a line that a cut left
	return errors.Join(err, f.Sync(), f.Close(), syncDir(n.dir))
}

// undo destroys the keys that are noted. One that this token has not, or no longer, is gone. It returns ErrOtherToken for one of another.
func (n noting) undo(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(n.dir, notesName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		owner, blob, whole := parseNote(line)
		switch {
		case !whole:
			continue
		case owner != n.owner():
			return fmt.Errorf("%w: %q, in %s", ErrOtherToken, owner, filepath.Join(n.dir, notesName))
		}
		if err := n.Destroy(ctx, blob); err != nil && !errors.Is(err, hsm.ErrBlob) {
			return fmt.Errorf("destroy the keys of an attempt before: %w", err)
		}
	}
	return forgetNotes(n.dir)
}

// parseNote reads a line that note wrote. Of half a line it reads half a blob, which no token has, or reports that there is none.
func parseNote(line string) (owner string, blob []byte, whole bool) {
	before, after, _ := strings.Cut(strings.TrimSpace(line), " ")
	name, err := hex.DecodeString(before)
	if err != nil || after == "" {
		return "", nil, false
	}
	blob, err = hex.DecodeString(after)
	return string(name), blob, err == nil
}

// forgetNotes ends the notes.
func forgetNotes(dir string) error {
	err := os.Remove(filepath.Join(dir, notesName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(dir))
}
