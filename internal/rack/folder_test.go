package rack_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
)

// folder returns a new folder with a short path.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keyrack")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// uses are what can be done to a folder.
var uses = map[string]func(*testing.T, string) error{
	"create": func(t *testing.T, dir string) error {
		create, _, err := rack.ParseToken("soft", dir)
		if err == nil {
			_, err = rack.Create(t.Context(), rack.Config{Dir: dir, Token: create, Logger: racktest.Logger(t), AllowUnlockedMemory: true})
		}
		return err
	},
	"dev": func(t *testing.T, dir string) error {
		a, _, err := rack.Dev(t.Context(), rack.Config{Dir: dir, Logger: racktest.Logger(t)})
		if err == nil {
			err = a.Close(context.WithoutCancel(t.Context()))
		}
		return err
	},
	"dev reset": func(t *testing.T, dir string) error {
		write(t, filepath.Join(dir, "development"), "")
		return rack.DevReset(dir)
	},
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAnothersFolder refuses a folder in which others may write, and makes nothing in it. Of the two ways to have it so,
// one needs root.
func TestAnothersFolder(t *testing.T) {
	t.Parallel()
	open := map[string]func(string) error{"open to the group": func(dir string) error { return os.Chmod(dir, 0o770) }}
	if os.Geteuid() == 0 {
		open["of another user"] = func(dir string) error { return os.Chown(dir, 65534, 65534) }
	}
	for how, change := range open {
		for what, use := range uses {
			t.Run(what+" in one "+how, func(t *testing.T) {
				t.Parallel()
				dir := folder(t)
				if err := change(dir); err != nil {
					t.Fatal(err)
				}
				if err := use(t, dir); !errors.Is(err, rack.ErrOpenFolder) {
					t.Errorf("got %v", err)
				}
				if made, err := filepath.Glob(dir + "/[^d]*"); err != nil || len(made) > 0 {
					t.Errorf("made %q, %v", made, err)
				}
			})
		}
	}
}

// TestLockIsNoLink does not write through a link that stands where the lock should.
func TestLockIsNoLink(t *testing.T) {
	t.Parallel()
	for what, use := range uses {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir, target := folder(t), filepath.Join(folder(t), "target")
			write(t, target, "precious")
			write(t, filepath.Join(dir, "development"), "")
			if err := os.Symlink(target, filepath.Join(dir, "lock")); err != nil {
				t.Fatal(err)
			}
			if err := use(t, dir); err == nil {
				t.Error("used the folder")
			}
			if b, err := os.ReadFile(target); err != nil || string(b) != "precious" {
				t.Errorf("the target is %q, %v", b, err)
			}
		})
	}
}

// TestDevResetThroughALink removes the folder and not the link alone.
func TestDevResetThroughALink(t *testing.T) {
	t.Parallel()
	parent := folder(t)
	dir, link := filepath.Join(parent, "dev"), filepath.Join(parent, "link")
	if err := errors.Join(uses["dev"](t, dir), os.Symlink(dir, link), rack.DevReset(link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, link} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

// TestSocketIsPrivate keeps other users from taking up the operator's connections.
func TestSocketIsPrivate(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	if info, err := os.Stat(r.Socket()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
}
