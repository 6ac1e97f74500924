package settings

import (
	"fmt"
	"path/filepath"
	"time"
)

// Source is who has set a value. Greater ones override lesser ones.
type Source uint8

// The sources.
const (
	FromDefault Source = iota
	FromFile
	FromEnvironment
	FromFlag
)

// Value is what a setting is, and why.
type Value struct {
	*Setting
	Text   string
	Source Source
	Where  string // "--listen", "KEYRACK_LISTEN", "/etc/keyrack.toml:3" or "default"
}

// Values are all settings of a table as they are, by name.
type Values map[string]Value

// Resolve decides what every setting is. flags are those that were given, by the
// name of their setting, and checked; getenv reads the environment, in which an
// empty variable is none; file may be nil. The error names the variable.
func (t Table) Resolve(flags map[string]string, getenv func(string) string, file *File) (Values, error) {
	all := Values{}
	for i := range t {
		s := &t[i]
		v, err := s.resolve(flags, getenv, file)
		if err != nil {
			return nil, err
		}
		all[s.Name] = v
	}
	return all, nil
}

func (s *Setting) resolve(flags map[string]string, getenv func(string) string, file *File) (Value, error) {
	if text, ok := flags[s.Name]; ok {
		return Value{s, text, FromFlag, "--" + s.FlagName()}, nil
	}
	if text := getenv(s.EnvName()); text != "" {
		if err := s.Check(text); err != nil {
			return Value{}, fmt.Errorf("environment variable %s is %s: %w", s.EnvName(), s.Refused(text), err)
		}
		return Value{s, text, FromEnvironment, s.EnvName()}, nil
	}
	if file != nil {
		if e, ok := file.says[s.Name]; ok {
			return Value{s, e.text, FromFile, fmt.Sprintf("%s:%d", filepath.Clean(file.Path), e.line)}, nil
		}
	}
	return Value{s, s.Default, FromDefault, "default"}, nil
}

// Text returns a setting's value. A name that the table does not have is a
// programmer's error.
func (vs Values) Text(name string) string { return vs.of(name).Text }

// Int returns a Number, or a Size in bytes; a Choice is the place of its word.
func (vs Values) Int(name string) int64 {
	v := vs.of(name)
	n, err := v.number(v.Text)
	if err != nil { // checked when it was set, or a default that the table does not allow
		panic(fmt.Sprintf("settings: %s is %q: %v", name, v.Text, err))
	}
	return n
}

// Duration returns a Time.
func (vs Values) Duration(name string) time.Duration { return time.Duration(vs.Int(name)) }

// Bool returns a Bool.
func (vs Values) Bool(name string) bool { return vs.Int(name) == 1 }

func (vs Values) of(name string) Value {
	v, ok := vs[name]
	if !ok {
		panic("settings: there is no " + name)
	}
	return v
}
