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

// notesName is the file of the keys that an attempt to make an appliance has made in the token: a line of hex for each
// blob. A chip has room for few keys, so an attempt that failed, or that was cut off, must not leave its own there. The file is
// gone before the folder holds an appliance: a key that is in use never stands in it.
const notesName = "keys.new"

// noting is a token whose new keys are noted before anybody has them.
type noting struct {
	hsm.Provider
	dir string
}

// Generate implements hsm.Provider.
func (n noting) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
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
	return n.forget()
}

// forget ends the notes.
func (n noting) forget() error {
	if err := os.Remove(filepath.Join(n.dir, notesName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(n.dir)
}
