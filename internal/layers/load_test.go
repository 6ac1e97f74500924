package layers_test

import (
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pkg is a folder with Go files: its path below the module and the import paths of its files, sorted.
type pkg struct {
	path    string
	imports []string // of non-test files, whatever their build tags
	tests   []string // of tests inside the package
	xtests  []string // of external test packages
}

// load reads the import clauses of every Go file below root. It parses the files itself where `go list` would need
// one run per platform and build tag, and because go test's cache sees only the files that the test itself opens.
func load(root string) ([]pkg, error) {
	found := map[string]*pkg{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && file != root && foreign(file, d.Name()) {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(file) != ".go" {
			return nil
		}
		return add(found, root, file)
	})
	var pkgs []pkg
	for _, dir := range slices.Sorted(maps.Keys(found)) {
		pkgs = append(pkgs, *found[dir])
	}
	return pkgs, err
}

// foreign reports whether the go command would not count a folder to the module.
func foreign(dir, name string) bool {
	if name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return !errors.Is(err, fs.ErrNotExist)
}

func add(found map[string]*pkg, root, file string) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return err
	}
	dir, err := filepath.Rel(root, filepath.Dir(file))
	if err != nil {
		return err
	}
	p := found[dir]
	if p == nil {
		p = &pkg{path: filepath.ToSlash(dir)}
		found[dir] = p
	}
	list := &p.imports
	if strings.HasSuffix(file, "_test.go") {
		list = &p.tests
		if strings.HasSuffix(f.Name.Name, "_test") {
			list = &p.xtests
		}
	}
	for _, spec := range f.Imports {
		to, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if i, seen := slices.BinarySearch(*list, to); !seen {
			*list = slices.Insert(*list, i, to)
		}
	}
	return nil
}

func TestLoad(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for file, text := range map[string]string{
		"go.mod":               "module x\n",
		"hsm/a.go":             "package hsm\nimport (\"os\"; \"errors\")\n",
		"hsm/b_windows.go":     "//go:build never\n\npackage hsm\nimport \"net\"\n",
		"hsm/in_test.go":       "package hsm\nimport \"testing\"\n",
		"hsm/out_test.go":      "package hsm_test\nimport \"time\"\n",
		"hsm/testdata/t.go":    "package broken\nimport \"net/http\"\n",
		"other/go.mod":         "module y\n",
		"other/o.go":           "package other\n",
		".hidden/h.go":         "package hidden\n",
		"service/secrets/s.go": "package secrets\n",
	} {
		name := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []pkg{
		{path: "hsm", imports: []string{"errors", "net", "os"}, tests: []string{"testing"}, xtests: []string{"time"}},
		{path: "service/secrets"},
	}
	if !slices.EqualFunc(got, want, equal) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func equal(a, b pkg) bool {
	return a.path == b.path && slices.Equal(a.imports, b.imports) && slices.Equal(a.tests, b.tests) && slices.Equal(a.xtests, b.xtests)
}
