package main_test

import (
	"reflect"
	"testing"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/internal/settings"
)

// TestEverySettingReachesTheAppliance changes one setting after the other.
func TestEverySettingReachesTheAppliance(t *testing.T) {
	t.Parallel()
	usual, err := keyrack.RackConfig(map[string]string{"appliance.dir": "/rack"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range keyrack.Settings() {
		if s.Section() == "client" || s.Name == "appliance.token" { // a token is a function; testdata/token opens each
			continue
		}
		other := another(t, &s)
		if err := s.Check(other); err != nil {
			t.Errorf("%s: %q: %v", s.Name, other, err)
			continue
		}
		given := map[string]string{"appliance.dir": "/rack"}
		given[s.Name] = other
		cfg, err := keyrack.RackConfig(given)
		if err != nil || reflect.DeepEqual(cfg, usual) {
			t.Errorf("%s = %s changes nothing: %v", s.Name, other, err)
		}
	}
}

// another returns a value that is not the default.
func another(t *testing.T, s *settings.Setting) string {
	t.Helper()
	switch s.Kind {
	case settings.Path:
		return "/elsewhere"
	case settings.Number:
		return "3"
	case settings.Size:
		return "128KiB"
	case settings.Time:
		return "7s"
	case settings.Choice:
		return s.Choices[len(s.Choices)-1]
	case settings.Bool:
		return "true"
	}
	return "127.0.0.1:1"
}
