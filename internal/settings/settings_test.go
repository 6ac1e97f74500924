package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/internal/settings"
)

// rows is a table with a setting of every kind.
var rows = settings.Table{
	{Name: "one.text", Default: "t", Doc: "a text"},
	{Name: "one.path", Kind: settings.Path, Doc: "a path"},
	{Name: "one.spec", Default: "s", Doc: "a rebased one", Rebase: func(text, dir string) string { return text + "@" + dir }},
	{Name: "two.number", Kind: settings.Number, Min: 1, Max: 9, Default: "5", Doc: "a number"},
	{Name: "two.size", Kind: settings.Size, Min: 4096, Max: 1 << 30, Step: 4096, Default: "64MiB", Doc: "a size"},
	{Name: "two.time", Kind: settings.Time, Min: 1e9, Max: 3600e9, Default: "10s", Doc: "a time"},
	{Name: "two.choice", Kind: settings.Choice, Choices: []string{"red", "green", "blue"}, Default: "green", Doc: "a choice"},
	{Name: "two.bool", Kind: settings.Bool, Default: "false", Doc: "a bool"},
	{Name: "two.quiet", Discreet: true, Valid: func(s string) error {
		if strings.Contains(s, "hush") {
			return errors.New("want no secret")
		}
		return nil
	}, Doc: "one that no message repeats"},
	{Name: "two.picky", Flag: "very-picky", Env: "PICKY", Valid: func(s string) error {
		if s != "yes" {
			return errors.New("want yes")
		}
		return nil
	}, Doc: "a picky one"},
}

func none(string) string { return "" }

func TestParse(t *testing.T) {
	t.Parallel()
	_, err := rows.Parse("/etc/k/file.toml", []byte(`
one.path = "a/b"
[two]
number = 0x7
"size" = "8KiB"
time = '1m30s'
choice = "blue"
bool = true
picky = "yes"
[one]
spec = "x"
`))
	if err == nil || !strings.Contains(err.Error(), "file.toml:10: ") {
		t.Fatalf("a table that dotted keys have made is made again: %v", err)
	}
	file, err := rows.Parse("/etc/k/file.toml", []byte(`
[two]
number = 0x7
"size" = "8KiB"
time = '1m30s'
choice = "blue"
bool = true
picky = "yes"
[one]
path = "a/b"
spec = "x"
`))
	if err != nil {
		t.Fatal(err)
	}
	v, err := rows.Resolve(nil, none, file)
	if err != nil {
		t.Fatal(err)
	}
	if v.Int("two.number") != 7 || v.Int("two.size") != 8192 || v.Duration("two.time") != 90*time.Second ||
		v.Int("two.choice") != 2 || !v.Bool("two.bool") || v.Text("two.picky") != "yes" {
		t.Errorf("got %v", v)
	}
	if got := v.Text("one.path"); got != "/etc/k/a/b" {
		t.Errorf("a relative path is %q, want one of the file's folder", got)
	}
	if got := v.Text("one.spec"); got != "x@/etc/k" {
		t.Errorf("a rebased text is %q", got)
	}
	if got := v["two.size"].Where; got != "/etc/k/file.toml:4" {
		t.Errorf("the size comes from %q", got)
	}
	if got := v["one.text"]; got.Where != "default" || got.Text != "t" {
		t.Errorf("the text is %+v", got)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"unknown":       {"[one]\ntxt = \"\"", `f:2: there is no setting one.txt; did you mean one.text\?`},
		"without table": {"number = 3", `f:1: there is no setting number; did you mean two.number\?`},
		"far":           {"[one]\nzzzzzz = 1", `f:2: there is no setting one.zzzzzz`},
		"table":         {"[tow]", `f:1: there is no table \[tow\]; did you mean two\?; the tables are one, two`},
		"inline table":  {"one = {text = \"\"}", `f:1: one is a table: write \[one\], and its keys below`},
		"below":         {"[two]\nnumber.x = 1", `f:2: there is no setting two.number.x; did you mean two.number\?`},
		"secret":        {"[one]\nPassphrase = \"hush\"", `f:2: there is no setting one.Passphrase: a secret never stands in a settings file`},
		"list of":       {"[[one]]", `f:1: \[\[one\]\] is a list of tables: write \[one\], once`},
		"type":          {"[two]\nnumber = \"3\"", `f:2: two.number is of another type: want a number from 1 to 9, written as number = 5`},
		"a number":      {"[one]\ntext = 3", `f:2: one.text is of another type: want a text, written as text = "t"`},
		"float":         {"[two]\nnumber = 3.0", `f:2: two.number is of another type.*`},
		"list":          {"[two]\nnumber = [3]", `f:2: two.number is of another type.*`},
		"range":         {"[two]\n\n\nnumber = 10", `f:4: two.number is "10": want a number from 1 to 9`},
		"step":          {"[two]\nsize = \"5KiB\"", `f:2: two.size is "5KiB": want a size from 4KiB to 1GiB, a multiple of 4KiB`},
		"unit":          {"[two]\nsize = \"8192\"", `f:2: two.size is "8192": want a size from .*`},
		"overflow":      {"[two]\nsize = \"99999999999GiB\"", `f:2: two.size is "99999999999GiB": want a size from .*`},
		"time":          {"[two]\ntime = \"90m\"", `f:2: two.time is "90m": want a time from 1s to 1h`},
		"choice":        {"[two]\nchoice = \"pink\"", `f:2: two.choice is "pink": want red, green or blue`},
		"valid":         {"[two]\npicky = \"no\"", `f:2: two.picky is "no": want yes`},
		"discreet":      {"[two]\nquiet = \"hush\"", `f:2: two.quiet is not understood: want no secret`},
		"empty":         {"[one]\ntext = \"\"", `f:2: one.text is "": want a text, not an empty one`},
		"twice":         {"[one]\ntext = \"a\"\n\"text\" = \"b\"", `f:3: one.text is given twice: it stands in line 2 already`},
		"table twice":   {"[one]\n[two]\n[one]", `f:3: \[one\] is given twice: it stands in line 1 already`},
		"two faults":    {"[one]\nx1 = 1\ny2 = 2", "f:2: .*\nf:3: .*"},
		"syntax":        {"[one]\ntext = \"a", `f:2: .+`},
		"no value":      {"[one]\n\ntext =", `f:3: .+`},
		"no UTF-8":      {"[one]\ntext = \"\xff\"", `f:2: .+`},
	} {
		_, err := rows.Parse("f", []byte(c.text))
		if err == nil {
			t.Errorf("%s: no fault", name)
			continue
		}
		if !regexp.MustCompile("^" + c.want + "$").MatchString(err.Error()) {
			t.Errorf("%s: got %q, want %q", name, err, c.want)
		}
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: a secret is in the message %q", name, err)
		}
	}
}

// TestOverride gives a setting by every source.
func TestOverride(t *testing.T) {
	t.Parallel()
	file, err := rows.Parse("f", []byte("[two]\nnumber = 2\npicky = \"yes\""))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	flags := map[string]string{}
	get := func(name string) string { return env[name] }
	for _, c := range []struct {
		change func()
		text   string
		where  string
	}{
		{func() {}, "2", "f:2"},
		{func() { env["KEYRACK_NUMBER"] = "3" }, "3", "KEYRACK_NUMBER"},
		{func() { flags["two.number"] = "4" }, "4", "--number"},
		{func() { delete(env, "KEYRACK_NUMBER"); env["PICKY"] = "" }, "4", "--number"},
	} {
		c.change()
		v, err := rows.Resolve(flags, get, file)
		if err != nil {
			t.Fatal(err)
		}
		if n := v["two.number"]; n.Text != c.text || n.Where != c.where || v["two.picky"].Text != "yes" {
			t.Errorf("got %s from %s, want %s from %s; %v", n.Text, n.Where, c.text, c.where, v["two.picky"])
		}
	}
	env["KEYRACK_QUIET"] = "hush"
	if _, err := rows.Resolve(flags, get, file); err == nil || err.Error() != `environment variable KEYRACK_QUIET is not understood: want no secret` {
		t.Errorf("got %v", err)
	}
	delete(env, "KEYRACK_QUIET")
	env["PICKY"] = "no"
	if _, err := rows.Resolve(flags, get, file); err == nil || err.Error() != `environment variable PICKY is "no": want yes` {
		t.Errorf("got %v", err)
	}
}

// TestExample parses the example, and the same with all settings set.
func TestExample(t *testing.T) {
	t.Parallel()
	example := rows.Example()
	if _, err := rows.Parse("example", []byte(example)); err != nil {
		t.Error(err)
	}
	set := regexp.MustCompile(`(?m)^#([a-z])`).ReplaceAllString(example, "$1")
	set = strings.Replace(set, `picky = "TEXT"`, `picky = "yes"`, 1)
	file, err := rows.Parse("example", []byte(set))
	if err != nil {
		t.Fatal(err)
	}
	v, err := rows.Resolve(nil, none, file)
	if err != nil {
		t.Fatal(err)
	}
	for name, one := range v {
		if one.Source != settings.FromFile {
			t.Errorf("%s is not in the example:\n%s", name, example)
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f.toml")
	write := func(text string, mode os.FileMode) {
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for mode, safe := range map[os.FileMode]bool{0o600: true, 0o644: true, 0o400: true, 0o620: false, 0o602: false, 0o666: false} {
		write("[one]\ntext = \"a\"\n", mode)
		if _, err := rows.Read(path); errors.Is(err, settings.ErrUnsafe) == safe || safe && err != nil {
			t.Errorf("mode %o: %v", mode, err)
		}
		os.Remove(path)
	}
	write(strings.Repeat("#", 65536), 0o600)
	if _, err := rows.Read(path); err != nil {
		t.Error(err)
	}
	write(strings.Repeat("#", 65537), 0o600)
	if _, err := rows.Read(path); err == nil || !strings.Contains(err.Error(), "larger than any") {
		t.Error(err)
	}
	if _, err := rows.Read(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not an ordinary file") {
		t.Error(err)
	}
	if _, err := rows.Read(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"encrypt", "decrypt", "key", "keys", "status", "max-connections"}
	for word, want := range map[string]string{
		"encrpyt": "encrypt", "derypt": "decrypt", "kye": "key", "key": "key", "statsu": "status", "max-conections": "max-connections",
		"polish": "", "": "", "x": "", "connections": "",
	} {
		if got := settings.Nearest(word, words); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0B", 1: "1B", 1023: "1023B", 1024: "1KiB", 1536: "1536B", 64 << 20: "64MiB", 3 << 30: "3GiB"} {
		if got := settings.SizeText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{10 * time.Second: "10s", 15 * time.Minute: "15m", time.Hour: "1h", 90 * time.Minute: "1h30m", 30*time.Minute + time.Second: "30m1s", time.Hour + 10*time.Second: "1h0m10s"} {
		if got := settings.TimeText(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

// FuzzParse: whatever a file holds, it is settings that the table allows, or faults
// on lines that the file has.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		rows.Example(), "[two]\nnumber = 3\n", "one.text = \"a\"", "[one]\n\"te\\u0078t\" = '''a\nb'''", "[[one]]\n[one.text]", "a = {b = 1}\r\n", "\ufeff[one]", "[one]\ntext = ",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := rows.Parse("f", text)
		if faults, ok := errors.AsType[settings.Faults](err); err != nil && (!ok || len(faults) == 0) {
			t.Fatalf("%v is no fault", err)
		} else if last := len(faults) - 1; ok && faults[last].Line > 1+strings.Count(string(text), "\n") {
			t.Fatalf("%v: there is no such line", faults)
		}
		v, err := rows.Resolve(nil, none, file)
		for _, one := range v {
			if err := one.Check(one.Text); one.Source == settings.FromFile && err != nil {
				t.Errorf("%s: %v", one.Name, err)
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
}
