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

// TestCreateInDevsFolder refuses to make an appliance that is to stay where `keyrack dev reset` would remove it: in
// a folder that dev runs in, that it has only begun, or that some version has marked.
func TestCreateInDevsFolder(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(string) error{
		"used": func(dir string) error { return uses["dev"](t, dir) },
		"begun": func(dir string) error {
			write(t, filepath.Join(dir, "development"), "keyrack dev made this fol")
			return nil
		},
		"a link": func(dir string) error { return os.Symlink("nowhere", filepath.Join(dir, "development")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			if err := fill(dir); err != nil {
				t.Fatal(err)
			}
			if err := uses["create"](t, dir); !errors.Is(err, rack.ErrDev) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestDevResetKeepsOthers removes nothing where the appliance in the folder is not the one that the mark names, be the
// mark planted, of an older version, or its store not to be read.
func TestDevResetKeepsOthers(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"a mark beside another appliance": func(t *testing.T, dir string) {
			other := folder(t)
			if err := uses["create"](t, other); err != nil {
				t.Fatal(err)
			}
			copyFile(t, filepath.Join(other, "store.db"), filepath.Join(dir, "store.db"))
		},
		"a mark without an id": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "development"), "keyrack dev made this folder, and keyrack dev reset removes it\n")
		},
		"a broken store": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "store.db"), "no store") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			if err := uses["dev"](t, dir); err != nil {
				t.Fatal(err)
			}
			spoil(t, dir)
			before, err := filepath.Glob(dir + "/*")
			if err != nil {
				t.Fatal(err)
			}
			if err := rack.DevReset(dir); !errors.Is(err, rack.ErrNotDev) {
				t.Errorf("reset: %v", err)
			}
			if after, err := filepath.Glob(dir + "/*"); err != nil || len(after) != len(before) {
				t.Errorf("there are %q, %v, before there were %q", after, err, before)
			}
			if name == "a broken store" {
				return // Dev says what is wrong with it
			}
			if err := uses["dev"](t, dir); !errors.Is(err, rack.ErrNotDev) {
				t.Errorf("dev: %v", err)
			}
		})
	}
}

// TestDevGoesOnFromACut takes up a folder in which a cut has left a part of the mark and nothing else.
func TestDevGoesOnFromACut(t *testing.T) {
	t.Parallel()
	for _, mark := range []string{"", "keyrack dev made this folder for appliance 0"} {
		dir := folder(t)
		write(t, filepath.Join(dir, "development"), mark)
		for range 2 { // made, and used again
			if err := uses["dev"](t, dir); err != nil {
				t.Fatalf("mark %q: %v", mark, err)
			}
		}
		if err := rack.DevReset(dir); err != nil {
			t.Errorf("mark %q: reset: %v", mark, err)
		}
	}
}
