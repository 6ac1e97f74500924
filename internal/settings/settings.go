// Package settings is what can be set of a program: a table, of which flags,
// environment variables, the settings file and their documentation are made, and
// the rule by which they override each other.
//
// Read first: [Setting], a row of the table; [Read], the file; [Table.Resolve],
// where a value comes from: a flag before the environment, that before the file,
// the default last.
//
// It knows no setting by name, and holds no secret: where one is needed, a setting
// is the path of the file that has it.
package settings

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Kind is what a setting takes.
type Kind uint8

// The kinds, each with how a value is written in a file of TOML.
const (
	Text   Kind = iota // a string
	Path               // a string; a relative one is of the file's folder
	Number             // an integer
	Size               // a string: bytes, such as "64MiB"
	Time               // a string: a duration, such as "10s" or "1h30m"
	Choice             // a string: one of some words
	Bool               // true or false
)

// Setting is a row of a table.
type Setting struct {
	Name    string // table and key in the file: "limits.max-connections"
	Flag    string // "" = the key
	Env     string // "" = KEYRACK_ and the flag in capitals
	Kind    Kind
	Value   string // stands for a value in help; "" = the kind's
	Default string // "" = none
	Doc     string // what it does: one sentence without a full stop

	// Min and Max bound a Number, a Size in bytes and a Time in nanoseconds.
	Min, Max int64
	// Step is what a Size is a multiple of; 0 = any.
	Step    int64
	Choices []string
	// Valid refuses more than the kind does, and says what is wanted; nil = nothing.
	Valid func(text string) error
	// Discreet keeps a value that is refused out of the message: somebody may have
	// written a secret into it.
	Discreet bool
	// Rebase makes a value of the file independent of the folder dir that the
	// file is in; nil = what the kind does.
	Rebase func(text, dir string) string
}

// Table is all settings, in the order in which they are shown: those of a table of
// the file stand together.
type Table []Setting

// Find returns the setting of a name, nil if there is none.
func (t Table) Find(name string) *Setting {
	for i := range t {
		if t[i].Name == name {
			return &t[i]
		}
	}
	return nil
}

// names returns the names of all settings.
func (t Table) names() (all []string) {
	for i := range t {
		all = append(all, t[i].Name)
	}
	return all
}

// Section returns the table that the setting is in.
func (s *Setting) Section() string {
	section, _, _ := strings.Cut(s.Name, ".")
	return section
}

// Key returns the name within its table.
func (s *Setting) Key() string {
	_, key, _ := strings.Cut(s.Name, ".")
	return key
}

// FlagName returns the flag without its dashes.
func (s *Setting) FlagName() string {
	if s.Flag != "" {
		return s.Flag
	}
	return s.Key()
}

// EnvName returns the name of the environment variable.
func (s *Setting) EnvName() string {
	if s.Env != "" {
		return s.Env
	}
	return "KEYRACK_" + strings.ToUpper(strings.ReplaceAll(s.FlagName(), "-", "_"))
}

// placeholders stand for the values of a kind.
var placeholders = [...]string{Text: "TEXT", Path: "FILE", Number: "N", Size: "SIZE", Time: "TIME", Choice: "WORD"}

// Placeholder returns the word that stands for a value, "" of a Bool.
func (s *Setting) Placeholder() string {
	if s.Value != "" || s.Kind == Bool {
		return s.Value
	}
	return placeholders[s.Kind]
}

// Allowed says what the setting takes: "a number from 1 to 64".
func (s *Setting) Allowed() string {
	switch s.Kind {
	case Path:
		return "a path"
	case Number:
		return fmt.Sprintf("a number from %d to %d", s.Min, s.Max)
	case Size:
		text := fmt.Sprintf("a size from %s to %s", sizeText(s.Min), sizeText(s.Max))
		if s.Step != 0 {
			text += ", a multiple of " + sizeText(s.Step)
		}
		return text
	case Time:
		return fmt.Sprintf("a time from %s to %s", timeText(s.Min), timeText(s.Max))
	case Choice:
		return orList(s.Choices)
	case Bool:
		return "true or false"
	}
	return "a text"
}

// orList returns "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// Check refuses a value, and says what is wanted.
func (s *Setting) Check(text string) error {
	if _, err := s.number(text); err != nil {
		return fmt.Errorf("want %s", s.Allowed())
	}
	switch {
	case text == "":
		return fmt.Errorf("want %s, not an empty one", s.Allowed())
	case strings.ContainsRune(text, 0):
		return errors.New("want no zero byte in it")
	case s.Valid != nil:
		return s.Valid(text)
	}
	return nil
}

// Refused returns how a message shows a value that was refused.
func (s *Setting) Refused(text string) string {
	if s.Discreet {
		return "not understood"
	}
	return strconv.Quote(short(text))
}

// errRange says that a value is not what its setting takes.
var errRange = errors.New("out of range")

// number returns the number that a text of a counted kind means, and refuses one
// that is out of range; of a Choice its place, of a Bool 0 or 1, of others 0.
func (s *Setting) number(text string) (n int64, err error) {
	switch s.Kind {
	case Number:
		n, err = strconv.ParseInt(text, 10, 64)
	case Size:
		n, err = parseSize(text)
	case Time:
		var d time.Duration
		d, err = time.ParseDuration(text)
		n = int64(d)
	case Choice:
		return place(s.Choices, text)
	case Bool:
		return place([]string{"false", "true"}, text)
	default:
		return 0, nil
	}
	if err == nil && (n < s.Min || n > s.Max || s.Step != 0 && n%s.Step != 0) {
		err = errRange
	}
	return n, err
}

// place returns where a word stands.
func place(words []string, word string) (int64, error) {
	for i, w := range words {
		if w == word {
			return int64(i), nil
		}
	}
	return 0, errRange
}

// units are those of sizes, the largest first.
var units = []struct {
	name  string
	shift int
}{{"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}}

// parseSize reads a whole number of a unit: "64MiB".
func parseSize(text string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err == nil && n > math.MaxInt64>>u.shift {
			err = errRange
		}
		return n << u.shift, err
	}
	return 0, errors.New("no unit")
}

// sizeText writes a size as parseSize reads it, in the largest unit that is exact.
func sizeText(n int64) string {
	for _, u := range units {
		if n != 0 && n&(1<<u.shift-1) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return "0B"
}

// timeText writes a duration without parts that are zero: 15m, not 15m0s.
func timeText(n int64) string {
	text := time.Duration(n).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// SizeText writes a number of bytes as a Size is written.
func SizeText(bytes int64) string { return sizeText(bytes) }

// TimeText writes a duration as a Time is written.
func TimeText(d time.Duration) string { return timeText(int64(d)) }

// rebase returns a value of the file as it is meant anywhere.
func (s *Setting) rebase(text, dir string) string {
	switch {
	case s.Rebase != nil:
		return s.Rebase(text, dir)
	case s.Kind == Path && !filepath.IsAbs(text):
		return filepath.Join(dir, text)
	}
	return text
}
