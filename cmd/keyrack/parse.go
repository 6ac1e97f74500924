package main

import (
	"errors"
	"flag"
	"strings"
	"time"

	"github.com/keyrack/keyrack/internal/settings"
)

// repeatable stands in the usage of every flag that may be given several times: what
// help says is what is done. Any other is refused the second time, because which of
// the two is meant would be a guess.
const repeatable = "may be given several times"

// parse parses flags wherever they stand before "--": package flag stops at the
// first word that is no flag, but people write `audit verify DIR --key KEY`. rest is
// nil without "--", and empty if nothing follows it.
func parse(fs *flag.FlagSet, args []string) (words, rest []string, err error) {
	seen := map[string]bool{}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return words, append([]string{}, args...), nil
		case len(arg) < 2 || arg[0] != '-':
			words = append(words, arg)
		default:
			if args, err = parseFlag(fs, seen, arg, args); err != nil {
				return nil, nil, err
			}
		}
	}
	return words, nil, nil
}

// parseFlag sets the flag that arg is, with one dash or two, and returns the arguments
// behind it and its value.
func parseFlag(fs *flag.FlagSet, seen map[string]bool, arg string, args []string) ([]string, error) {
	name, value, with := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
	f := fs.Lookup(name)
	where := "keyrack help " + fs.Name()
	switch {
	case f == nil && (name == "help" || name == "h"):
		return nil, flag.ErrHelp
	case f == nil:
		return nil, misused(didYouMean(dashed(settings.Nearest(name, flagNames(fs))), where), "%s: there is no flag %s", fs.Name(), dashed(name))
	case seen[name] && !strings.Contains(f.Usage, repeatable):
		return nil, usagef(where, "%s: %s is given twice", fs.Name(), dashed(name))
	case !with && isBool(f):
		value = "true"
	case !with && len(args) == 0:
		return nil, usagef(where, "%s: %s needs a value", fs.Name(), dashed(name))
	case !with:
		value, args = args[0], args[1:]
	}
	if value == "" && names(f) {
		return nil, misused("give it a value or leave it out; is a variable of the shell empty?", "%s: %s is empty", fs.Name(), dashed(name))
	}
	seen[name] = true
	err := f.Value.Set(value)
	if s, ok := f.Value.(*settingFlag); ok && err != nil && s.Discreet {
		return nil, usagef(where, "%s: %s is not understood: %w", fs.Name(), dashed(name), err)
	}
	if err != nil {
		return nil, usagef(where, "%s: invalid value %q for %s: %w", fs.Name(), value, dashed(name), explained(f, err))
	}
	return args, nil
}

// explained says what package flag's own numbers and times want: it says "parse error".
func explained(f *flag.Flag, err error) error {
	g, ok := f.Value.(flag.Getter)
	if !ok {
		return err
	}
	switch g.Get().(type) {
	case time.Duration:
		return errors.New("want a time such as 500ms, 90s or 5m")
	case int, int64, uint, uint64:
		return errors.New("want a whole number in its range")
	}
	return err
}

// names reports whether a flag names something, a key or a file, so that an empty value is
// a mistake: taken for a flag that was left out, it would decrypt with any key, or delete
// the current material. A description may be empty.
func names(f *flag.Flag) bool {
	if _, ok := f.Value.(*place); ok {
		return true
	}
	g, ok := f.Value.(flag.Getter)
	if !ok {
		return false
	}
	_, text := g.Get().(string)
	return text && f.Name != "description"
}

// isBool reports whether a flag needs no value.
func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// dashed returns a flag as it is typed: two dashes, or one before a letter. "" stays.
func dashed(name string) string {
	switch len(name) {
	case 0:
		return ""
	case 1:
		return "-" + name
	}
	return "--" + name
}

// flagNames returns the names of all flags of a command.
func flagNames(fs *flag.FlagSet) (all []string) {
	fs.VisitAll(func(f *flag.Flag) { all = append(all, f.Name) })
	return all
}

// didYouMean is the hint for a word that was probably mistyped, or where help is.
func didYouMean(near, where string) string {
	if near == "" {
		return "run: " + where
	}
	return "did you mean " + near + "? If not, run: " + where
}
