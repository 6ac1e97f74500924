package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keyrack/keyrack/internal/settings"
)

// envConfig names the settings file where --config does not.
const envConfig = envPrefix + "CONFIG"

// envPrefix begins every variable of ours.
const envPrefix = "KEYRACK_"

// defaultConfig is the settings file that an appliance's data folder may hold.
const defaultConfig = "keyrack.toml"

// configFlag is the name of the flag that names a settings file.
const configFlag = "config"

// settingFlag is a flag of a row of the table: what it is not given, the
// environment, the settings file or the default is.
type settingFlag struct {
	*settings.Setting
	text  string
	given bool
	take  func(text string) error // is told the value; nil = nobody
	alone bool                    // take is told of flags only
}

// setting declares the flag of a row.
func setting(fs *flag.FlagSet, name string, take func(text string) error) *settingFlag {
	s := allSettings.Find(name)
	f := &settingFlag{Setting: s, text: s.Default, take: take}
	fs.Var(f, s.FlagName(), s.Doc)
	return f
}

// String returns the value.
func (f *settingFlag) String() string { return f.text }

// IsBoolFlag reports whether the flag needs no value.
func (f *settingFlag) IsBoolFlag() bool { return f.Setting != nil && f.Kind == settings.Bool }

// Set takes a value from the command line.
func (f *settingFlag) Set(text string) error {
	if err := f.Check(text); err != nil {
		return err
	}
	f.given = true
	return f.is(text)
}

func (f *settingFlag) is(text string) error {
	f.text = text
	if f.take == nil {
		return nil
	}
	return f.take(text)
}

// settingFlags returns those of a command's flags that are rows of the table.
func settingFlags(fs *flag.FlagSet) (all []*settingFlag) {
	fs.VisitAll(func(f *flag.Flag) {
		if s, ok := f.Value.(*settingFlag); ok {
			all = append(all, s)
		}
	})
	return all
}

// takeSettings declares the flags of all rows whose names begin with a prefix, but
// those that a command has declared itself.
func takeSettings(fs *flag.FlagSet, prefixes ...string) {
	for i := range allSettings {
		begins := func(prefix string) bool { return strings.HasPrefix(allSettings[i].Name, prefix) }
		if fs.Lookup(allSettings[i].FlagName()) == nil && slices.ContainsFunc(prefixes, begins) {
			setting(fs, allSettings[i].Name, nil)
		}
	}
}

// takeFile declares --config for a command that has settings. Without the flag, no
// file is read.
func takeFile(fs *flag.FlagSet) {
	if len(settingFlags(fs)) > 0 {
		fs.String(configFlag, "", "read settings from `FILE`: keyrack help config")
	}
}

// resolve decides what every setting is, after a command's flags were parsed, and
// tells the flags that were not given.
func (sh *shell) resolve(fs *flag.FlagSet) error {
	flags := settingFlags(fs)
	given := map[string]string{}
	for _, f := range flags {
		if f.given {
			given[f.Name] = f.text
		}
	}
	file, err := sh.settingsFile(fs, given)
	if err != nil {
		return err
	}
	if sh.settings, err = allSettings.Resolve(given, sh.getenv, file); err != nil {
		return misused("correct the variable, or unset it; keyrack config example has what each takes", "%w", err)
	}
	for _, f := range flags {
		if v := sh.settings[f.Name]; v.Source != settings.FromDefault && !f.given && !f.alone {
			if err := f.is(v.Text); err != nil {
				return misused("correct it there", "%s: %w", v.Where, err)
			}
		}
	}
	return nil
}

// settingsFile reads the file that --config names, or KEYRACK_CONFIG, or else that of the
// data folder, which need not be there. nil is none.
func (sh *shell) settingsFile(fs *flag.FlagSet, given map[string]string) (*settings.File, error) {
	f := fs.Lookup(configFlag)
	if f == nil {
		return nil, nil
	}
	path, named := f.Value.String(), true
	if path == "" {
		path = sh.getenv(envConfig)
	}
	if path == "" {
		path, named = sh.folderFile(fs, given), false
	}
	if path == "" {
		return nil, nil
	}
	file, err := readSettings(path)
	if !named && isMissing(err) {
		return nil, nil
	}
	return file, err
}

// folderFile returns the path of the settings file of the data folder that a command
// uses itself, "" if it uses none.
func (sh *shell) folderFile(fs *flag.FlagSet, given map[string]string) string {
	f := fs.Lookup("dir")
	if f == nil {
		return ""
	}
	if s, ok := f.Value.(*settingFlag); !ok || s.alone {
		return ""
	}
	dir := given["appliance.dir"]
	if dir == "" {
		dir = sh.getenv(allSettings.Find("appliance.dir").EnvName())
	}
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, defaultConfig)
}

// readSettings reads a settings file. Its path is made absolute: what is said in the
// file of other paths must not depend on where keyrack runs.
func readSettings(path string) (*settings.File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	file, err := allSettings.Read(path)
	if err != nil {
		return nil, fmt.Errorf("settings file: %w", err)
	}
	return file, nil
}

// isMissing reports whether there is no such file, or nothing that it could be in.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// env is the environment as flags and the settings file have changed it: a
// variable that a setting has is that setting.
func (sh *shell) env(name string) string {
	for i := range allSettings {
		if allSettings[i].EnvName() == name && sh.settings != nil {
			return sh.settings.Text(allSettings[i].Name)
		}
	}
	return sh.getenv(name)
}

// settingVariables returns the variables that settings have, and the one of the file.
func settingVariables() map[string]bool {
	known := map[string]bool{envConfig: true}
	for i := range allSettings {
		known[allSettings[i].EnvName()] = true
	}
	return known
}

// strays warns of variables that look like settings and are none.
func (sh *shell) strays() {
	known := settingVariables()
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, envPrefix) || known[name] {
			continue
		}
		advice := ""
		if near := settings.Nearest(name, slices.Sorted(maps.Keys(known))); near != "" {
			advice = "; did you mean " + near + "?"
		}
		fmt.Fprintf(sh.err, "WARNING: environment variable %s is no setting%s\n", oneLine(name), advice)
	}
}
