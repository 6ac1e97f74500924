package layers_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestCheckRefuses breaks each rule once: a checker that lets everything through would go unnoticed otherwise.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, to, want string }{
		{"api", module + "api/kmsapi", "upward"},
		{"internal/cbor", module + "api", "upward"},
		{"internal/clock", module + "internal/work", "sideways"},
		{"internal/tlog", module + "internal/seal", "upward"},
		{"access/policy", module + "access", "upward"},
		{"service/kms", module + "service/secrets", "sideways"},
		{"service/secrets/postgres", module + "service/secrets/mysql", "sideways"},
		{"hsm", module + "hsm/soft", "sideways"},
		{"domain", module + "access", "sideways"},
		{"internal/rack", module + "cmd/keyrack", "upward"},
		{"audit", module + "nowhere", "on no line"},
		{"internal/rack", module + "hsm/hsmtest", "external test packages only"},
		{"bench", module + "internal/racktest", "external test packages only"},

		{"api", "net", "shared words"},
		{"api/kmsapi", "os/exec", "shared words"},
		{"api", "crypto/tls", "shared words"},
		{"hsm/soft", "log/slog", "its caller logs"},
		{"hsm/tpm2", module + "audit", "not the appliance"},
		{"keystore/bolt", module + "hsm", "keeps bytes"},
		{"keystore/bolt", "crypto/sha256", "only keystore/sealed"},
		{"keystore", module + "internal/seal", "only keystore/sealed"},
		{"keystore/sealed", module + "domain", "keeps bytes"},
		{"audit", "net/http", "reach nothing outside"},
		{"audit", module + "keystore", "reach nothing outside"},
		{"access/quota", "os", "arguments alone"},
		{"access/identity", "net", "index in memory"},
		{"service/kms", "net/http", "fronts own the sockets"},
		{"service/secrets", "crypto/tls", "fronts own the sockets"},
		{"service/iam", "encoding/json", "internal/jsonwire"},
		{"service/kms", module + "hsm/soft", "only internal/rack"},
		{"service/kms", module + "keystore/bolt", "only internal/rack"},
		{"cmd/keyrack", module + "hsm/pkcs11", "only internal/rack"},
		{"cmd/keyrack", module + "service/kms", "commands are clients"},
		{"protocol", "net", "so that they fuzz"},
		{"protocol", module + "internal/securemem", "so that they fuzz"},
		{"protocol/server", module + "domain", "access.Routes"},
		{"protocol/client", module + "access", "drag the appliance in"},
		{"protocol/client", module + "internal/seal", "drag the appliance in"},
		{"board/gpio", module + "internal/clock", "internal/rack connects them"},

		{"service/kms", "github.com/fxamacker/cbor/v2", "lives behind internal/cbor"},
		{"keystore/sealed", "github.com/tidwall/btree", "lives behind keystore"},
		{"internal/tlog", "golang.org/x/mod/sumdb/tlog", "lives behind tests"},
		{"audit", "example.org/new", "needs its line in modules"},
	} {
		faults := check([]pkg{{path: c.from, imports: []string{c.to}}})
		if len(faults) != 1 || !strings.Contains(faults[0], c.want) {
			t.Errorf("%s -> %s: got %q, want one fault with %q", c.from, c.to, faults, c.want)
		}
	}
}

func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	for from, imports := range map[string][]string{
		"internal/seal":            {"crypto/hmac", module + "internal/securemem"},
		"api":                      {"net/netip", "net/url", module + "internal/cbor", module + "internal/seal"},
		"api/kmsapi":               {module + "api"},
		"api/table":                {module + "api/kmsapi"},
		"hsm/soft":                 {"os", module + "hsm", module + "internal/securemem"},
		"keystore":                 {"github.com/tidwall/btree"},
		"keystore/sealed":          {"crypto/subtle", module + "keystore", module + "internal/seal"},
		"audit":                    {"os", "golang.org/x/sys/unix", module + "internal/tlog"},
		"access":                   {module + "access/policy", module + "audit", module + "keystore"},
		"domain":                   {module + "hsm", module + "keystore"},
		"service/kms":              {module + "domain", module + "hsm", module + "access"},
		"service/secrets/postgres": {"net", "crypto/tls", module + "service/secrets"},
		"protocol/client":          {"net", "crypto/tls", module + "protocol", module + "api/kmsapi"},
		"internal/rack":            {module + "hsm/soft", module + "keystore/bolt", module + "protocol/server"},
		"cmd/keyrack":              {"encoding/json", module + "internal/rack", module + "protocol/client", module + "audit"},
	} {
		if faults := check([]pkg{{path: from, imports: imports}}); faults != nil {
			t.Errorf("got %q, want none", faults)
		}
	}
}

func TestCheckTestImports(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p    pkg
		want string
	}{
		"unlisted package":       {pkg{path: "util"}, "on no line of layers"},
		"package at the root":    {pkg{path: "."}, "on no line of layers"},
		"helper in inner test":   {pkg{path: "hsm/soft", tests: []string{module + "hsm/hsmtest"}}, "package soft_test"},
		"new module in a test":   {pkg{path: "hsm", tests: []string{"example.org/new"}}, "needs its line in modules"},
		"new module in an xtest": {pkg{path: "hsm", xtests: []string{"example.org/new"}}, "needs its line in modules"},
		"helper in an xtest":     {pkg{path: "hsm/soft", xtests: []string{module + "hsm/hsmtest", "pgregory.net/rapid"}}, ""},
		"test looks upward":      {pkg{path: "hsm", xtests: []string{module + "internal/racktest"}}, ""},
	} {
		got := strings.Join(check([]pkg{c.p}), "\n")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestTables keeps the tables honest: every name in them is a package of layers, and none stands on two lines.
func TestTables(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range strings.Fields(strings.Join(layers, " ")) {
		if seen[p] {
			t.Errorf("%s stands on two lines", p)
		}
		seen[p] = true
	}
	named := helpers
	for _, where := range modules {
		named += " " + strings.TrimSuffix(where, "tests")
	}
	for _, p := range strings.Fields(named) {
		if !seen[p] {
			t.Errorf("%s is named in a table but is on no line of layers", p)
		}
	}
	for _, b := range bans {
		for _, who := range strings.Fields(b.who) {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(p string) bool { return matches(who, p) }) {
				t.Errorf("the ban on %s names no package of layers", who)
			}
		}
	}
}
