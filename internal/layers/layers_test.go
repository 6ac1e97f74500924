// Package layers_test is the picture of the module: which package stands on which, what a package must never
// name, and behind which package each external module lives. TestModule holds the tree to it. Read the tables
// layers, bans and modules first. It judges direct imports of non-test files under every build tag; what tests
// import is free, except that a new module needs its line here and that test helpers are for external tests.
package layers_test

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keyrack/keyrack/"

// layers lists every package, existing or planned, lowest layer first. A package imports packages of lower lines,
// or its parent on the same line, whose interface it implements.
var layers = []string{
	"internal/cbor internal/clock internal/due internal/jsonwire internal/metrics internal/securemem internal/settings internal/tlog internal/work",
	"internal/kwp internal/pin internal/pq internal/seal internal/secp256k1",
	"internal/pkcs8",
	"api",
	"api/applianceapi api/iamapi api/kmsapi api/paramsapi api/secretsapi",
	"api/table",
	"access/identity access/policy access/quota audit board board/gpio hsm hsm/hsmtest hsm/hsmtest/swtpm hsm/pkcs11 hsm/remote hsm/soft hsm/tpm2 " +
		"keystore keystore/bolt keystore/etcd keystore/sealed keystore/storetest protocol",
	"access domain",
	"service/appliance service/iam service/kms service/params service/secrets service/secrets/*",
	"protocol/aws protocol/client protocol/server",
	"internal/rack internal/rack/supervise",
	"bench cmd/keyrack fuzz internal/layers internal/layers/shape internal/racktest internal/vectors",
}

// bans narrows the layers. Patterns: "x" is the package, "x/*" all below it, "x/..." both. An empty only means no
// limit; otherwise it lists all of our own packages that may be named. An address or a URL is only a value.
var bans = []struct{ who, not, only, why string }{
	{who: "api/...", not: "net/... os/... crypto/tls", why: "shared words do no input or output"},
	{who: "hsm/...", not: "log/...", why: "a token returns errors, its caller logs"},
	{who: "hsm/...", not: "keystore/... access/... audit service/... protocol/...", why: "a token knows keys, not the appliance"},
	{who: "keystore/...", not: "hsm/... domain access/...", why: "a store keeps bytes; take keys through an interface of your own"},
	{who: "keystore keystore/bolt keystore/etcd keystore/storetest", not: "crypto/... internal/seal", why: "only keystore/sealed seals"},
	{who: "audit access/policy access/quota", not: "net/... hsm/... keystore/...", why: "deciding and recording reach nothing outside"},
	{who: "access/policy access/quota", not: "os/...", why: "a decision depends on its arguments alone"},
	{who: "access/identity", not: "net/... keystore/... service/...", why: "the directory is an index in memory; service/iam owns the rows"},
	{who: "service/appliance service/iam service/kms service/params service/secrets", not: "net/... crypto/tls", why: "fronts own the sockets, rotators below service/secrets dial"},
	{who: "access/... protocol/... service/...", not: "encoding/json", why: "it accepts wrong case, duplicates and sloppy base64: read with internal/jsonwire"},
	{who: "access/... domain service/... protocol/... cmd/...", not: "hsm/* keystore/*", why: "only internal/rack names concrete tokens and engines"},
	{who: "cmd/...", not: "service/...", why: "commands are clients of the appliance; internal/rack wires the services"},
	{who: "protocol", not: "net/... os/...", only: "api/... internal/cbor", why: "frames are bytes, so that they fuzz"},
	{who: "protocol/server protocol/aws", not: "service/... hsm/... keystore/... domain", why: "a front holds access.Routes, nothing behind them"},
	{who: "protocol/client", only: "api/... protocol internal/tlog", why: "a user's program must not drag the appliance in; tlog, which checks the log's notes and proofs, is arithmetic that holds nothing of it"},
	{who: "board/...", only: "api/... board", why: "lights and buttons; internal/rack connects them"},
}

// modules says behind which packages each external import path lives; "tests" is none of them.
var modules = map[string]string{
	"filippo.io/age":                     "service/appliance",
	"filippo.io/mldsa":                   "internal/pq",
	"github.com/aws/aws-sdk-go-v2":       "tests",
	"github.com/cloudflare/circl":        "internal/pq",
	"github.com/decred/dcrd/dcrec":       "internal/secp256k1",
	"github.com/fxamacker/cbor/v2":       "internal/cbor",
	"github.com/go-json-experiment/json": "internal/jsonwire",
	"github.com/google/go-tpm":           "hsm/tpm2",
	"github.com/miekg/pkcs11":            "hsm/pkcs11",
	"github.com/pelletier/go-toml/v2":    "internal/settings",
	"github.com/rogpeppe/go-internal":    "tests",
	"github.com/tidwall/btree":           "keystore",
	"go.etcd.io/bbolt":                   "keystore/bolt",
	"go.etcd.io/etcd":                    "keystore/etcd",
	"golang.org/x/crypto/argon2":         "domain",
	"golang.org/x/mod/sumdb/note":        "internal/tlog",
	"golang.org/x/mod/sumdb/tlog":        "tests",
	"golang.org/x/sys":                   "audit internal/pin internal/rack internal/securemem keystore/bolt",
	"google.golang.org/grpc":             "keystore/etcd",
	"periph.io/x":                        "board/gpio",
	"pgregory.net/rapid":                 "hsm/hsmtest keystore/storetest",
}

// helpers hold a *testing.T; only external test packages may import them.
const helpers = "hsm/hsmtest hsm/hsmtest/swtpm internal/racktest internal/vectors keystore/storetest"

// values are packages below net that open nothing.
const values = "net/netip net/url"

func TestModule(t *testing.T) {
	t.Parallel()
	pkgs, err := load("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) == 0 {
		t.Fatal("no package found")
	}
	for _, fault := range check(pkgs) {
		t.Error(fault)
	}
}

// check returns one sentence per broken rule, each saying what to do.
func check(pkgs []pkg) (faults []string) {
	report := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, p := range pkgs {
		if layer(p.path) < 0 {
			report("%s is on no line of layers: add it to the line of what it stands on, in internal/layers/layers_test.go", p.path)
			continue
		}
		for _, to := range p.imports {
			if fault := judge(p.path, to); fault != "" {
				report("%s imports %s: %s", p.path, strings.TrimPrefix(to, module), fault)
			}
		}
		for _, to := range p.tests {
			if own, ok := strings.CutPrefix(to, module); ok && matches(helpers, own) {
				report("%s imports %s inside the package: move the test to package %s_test", p.path, own, path.Base(p.path))
			}
		}
		for _, to := range slices.Concat(p.tests, p.xtests) {
			if _, known := home(to); external(to) && !known {
				report("the tests of %s import %s: a new module needs its line in modules, with a reason in the commit", p.path, to)
			}
		}
	}
	return faults
}

// judge returns what is wrong with one import by a non-test file, or "".
func judge(from, to string) string {
	if external(to) {
		return judgeModule(from, to)
	}
	own, ours := strings.CutPrefix(to, module)
	for _, b := range bans {
		if !matches(b.who, from) || matches(values, own) {
			continue
		}
		if matches(b.not, own) || ours && b.only != "" && !matches(b.only, own) {
			return "not allowed here: " + b.why
		}
	}
	switch {
	case !ours:
		return ""
	case matches(helpers, own):
		return "a test helper, for external test packages only"
	case layer(own) < 0:
		return "on no line of layers"
	case layer(own) > layer(from):
		return "upward: move what you need into a lower package, or declare the interface here and let internal/rack wire it"
	case layer(own) == layer(from) && !strings.HasPrefix(from, own+"/"):
		return "sideways: declare the interface you need in your own package and let internal/rack wire it"
	}
	return ""
}

func judgeModule(from, to string) string {
	where, known := home(to)
	switch {
	case !known:
		return "a new module needs its line in modules, with a reason in the commit"
	case !matches(where, from):
		return "this module lives behind " + where + ": use that package"
	}
	return ""
}

// home returns the packages that may import an external path.
func home(to string) (where string, known bool) {
	for prefix, where := range modules {
		if matches(prefix+"/...", to) {
			return where, true
		}
	}
	return "", false
}

// external reports whether an import path is neither ours nor the standard library's.
func external(to string) bool {
	first, _, _ := strings.Cut(to, "/")
	return strings.Contains(first, ".") && !strings.HasPrefix(to, module)
}

// layer returns the line of a package in layers, or -1.
func layer(p string) int {
	return slices.IndexFunc(layers, func(line string) bool { return matches(line, p) })
}

// matches reports whether a package is named by one of the patterns.
func matches(patterns, p string) bool {
	return slices.ContainsFunc(strings.Fields(patterns), func(pattern string) bool {
		if parent, ok := strings.CutSuffix(pattern, "/*"); ok {
			return strings.HasPrefix(p, parent+"/")
		}
		parent, tree := strings.CutSuffix(pattern, "/...")
		return p == parent || tree && strings.HasPrefix(p, parent+"/")
	})
}
