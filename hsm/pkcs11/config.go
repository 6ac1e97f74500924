package pkcs11

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// maxConfig bounds a configuration's text in bytes.
const maxConfig = 8192

// ParseConfig reads attributes as a PKCS#11 URI has them (RFC 7512, section 2.3), separated by semicolons, each once, with
// percent-encoding: module (an absolute path), token (the label), serial, manufacturer, model, one of pin-file, pin-env and
// pin-credential, and final-try=yes. A value that needs no encoding stands as it is. It returns an error that wraps ErrConfig.
func ParseConfig(text string) (c Config, err error) {
	if len(text) > maxConfig {
		return c, fmt.Errorf("%w: it is longer than %d bytes", ErrConfig, maxConfig)
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ";") {
		name, value, ok := strings.Cut(part, "=")
		switch {
		case !ok:
			return c, fmt.Errorf("%w: an attribute is not NAME=VALUE", ErrConfig) // which one is not said: it may be a PIN
		case seen[name]:
			return c, fmt.Errorf("%w: %s stands there twice", ErrConfig, name)
		}
		seen[name] = true
		if err := c.set(name, value); err != nil {
			return c, err
		}
	}
	return c, c.check()
}

// set fills one member.
func (c *Config) set(name, value string) (err error) {
	fields := map[string]*string{
		"module": &c.Module, "token": &c.Label, "serial": &c.Serial, "manufacturer": &c.Manufacturer, "model": &c.Model,
		"pin-file": &c.PIN.File, "pin-env": &c.PIN.Env, "pin-credential": &c.PIN.Credential,
	}
	switch field := fields[name]; {
	case name == "pin-value" || name == "pin":
		return fmt.Errorf("%w: a PIN on a command line is everybody's: use pin-file, pin-env or pin-credential", ErrConfig)
	case name == "final-try" && value == "yes":
		c.FinalTry = true
	case field == nil:
		return fmt.Errorf("%w: %q is none of module, token, serial, manufacturer, model, pin-file, pin-env, pin-credential, final-try=yes", ErrConfig, name)
	default:
		if *field, err = url.PathUnescape(value); err != nil || *field == "" || strings.ContainsRune(*field, 0) {
			return fmt.Errorf("%w: the value of %s is empty or badly encoded", ErrConfig, name)
		}
	}
	return nil
}

// check refuses what is incomplete or contradicts itself, before any module is loaded.
func (c *Config) check() error {
	switch {
	case c.Module == "":
		return fmt.Errorf("%w: module=PATH is missing", ErrConfig)
	case !filepath.IsAbs(c.Module):
		return fmt.Errorf("%w: module %q is not an absolute path", ErrConfig, c.Module)
	case c.Label == "" && c.Serial == "":
		return fmt.Errorf("%w: token=LABEL or serial=NUMBER is missing", ErrConfig)
	case c.Sessions < 0 || c.Sessions > maxSessions || c.Timeout < 0:
		return fmt.Errorf("%w: at most %d sessions, and no negative time", ErrConfig, maxSessions)
	}
	if err := c.PIN.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}

// withDefaults returns c with the defaults in place of zeros.
func (c Config) withDefaults() Config {
	if c.Sessions == 0 {
		c.Sessions = defaultSessions
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return c
}
