package vectors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Wycheproof's module. Nothing is built of it: it is not in go.mod, and its 26 MB come from the module proxy into the
// module cache, once, as those of a dependency do. sum is what go.sum would have for it, and is checked.
const (
	module  = "github.com/c2sp/wycheproof"
	version = "v0.0.0-20260902155932-3fa63dd0344a"
	sum     = "h1:pNbL2nztRsWfW/ispAwsvcDFxs9Id38uIsR2/Up5G2c="
)

// fetched is the folder of the module, had once in a process; the go command locks its cache against other ones.
var fetched = sync.OnceValues(func() (string, error) { return fetch(module, version, sum) })

// fetch returns the folder of a module in the module cache, downloaded unless it is there.
func fetch(module, version, sum string) (dir string, err error) {
	at := module + "@" + version
	cmd := exec.Command("go", "mod", "download", "-json", at)
	cmd.Env = append(os.Environ(), "GONOSUMDB="+module) // sum is known: the checksum database is not asked
	text, err := cmd.Output()
	var got struct{ Dir, Sum, Error string }
	if bad := json.Unmarshal(text, &got); err == nil {
		err = bad
	}
	switch {
	case got.Error != "":
		return "", fmt.Errorf("go mod download: %s (make setup needs the module proxy of go env GOPROXY once)", got.Error)
	case err != nil:
		return "", fmt.Errorf("go mod download %s: %w (make setup needs the go command and the module proxy of go env GOPROXY once)", at, err)
	case got.Sum != sum:
		return "", fmt.Errorf("%s has the sum %s, want %s: what the proxy sent is not what was pinned", at, got.Sum, sum)
	}
	return got.Dir, nil
}

// Wycheproof returns the groups of the file testvectors_v1/name_test.json of Wycheproof.
func Wycheproof(tb testing.TB, name string) []Group {
	tb.Helper()
	dir, err := fetched()
	if err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "testvectors_v1", name+"_test.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []Group
	}
	if err := json.Unmarshal(text, &file); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	n := 0
	for _, g := range file.TestGroups {
		n += len(g.Tests)
	}
	if n == 0 || n != file.NumberOfTests {
		tb.Fatalf("%s has %d tests, and says %d", name, n, file.NumberOfTests)
	}
	return file.TestGroups
}

// Group is a group of tests with what they have in common: of each schema what is used here. Sizes are in bits, SLen in
// bytes.
type Group struct {
	KeySize, IvSize, TagSize, SLen int
	Sha, MgfSha                    string
	PublicKey                      Flat // of ML-DSA; an object in other files
	PublicKeyDer                   Octets
	PrivateKeyPkcs8, PrivateSeed   Octets
	Key                            struct{ SK Octets } // of Ed25519, in circl's older file
	Tests                          []Test
}

// Test is one of them. Result is "valid", "invalid" or "acceptable".
type Test struct {
	TcID            int
	Comment, Result string
	Flags           []string

	Key, IV, AAD, CT, Tag Octets // of AEADs, MACs and key wrap, CT also of RSA
	Msg, Sig, Ctx, Mu     Octets
	Label                 Octets
	Shared                Octets
	Public, Private       string // of ECDH: Octets, or PEM
	Seed, EK, DK, C, K    Octets // of ML-KEM
}

// Valid reports whether Wycheproof calls the test valid.
func (t *Test) Valid() bool { return t.Result == "valid" }

// String names a test: its number, comment and flags.
func (t *Test) String() string { return fmt.Sprintf("%d, %s %s", t.TcID, t.Comment, t.Flags) }

// Flat are Octets, or none where the file has an object.
type Flat []byte

// UnmarshalJSON is part of json.Unmarshaler.
func (f *Flat) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte("{")) {
		return nil
	}
	return json.Unmarshal(text, (*Octets)(f))
}
