package client_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// pythonEnv is the environment of the client in another language: that of the
// principal whose files are called name.
func pythonEnv(r *racktest.Rack, name string) []string {
	return append(os.Environ(), client.EnvAddr+"="+r.Addr(), client.EnvServerKey+"="+r.ServerKey(), client.EnvSocket+"="+r.Socket(),
		client.EnvCert+"="+r.Dir+"/"+name+".pem", client.EnvKey+"="+r.Dir+"/"+name+".key")
}

// python runs protocol/testdata/client.py, which shares no code with us.
func python(t *testing.T, env []string, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command("python3", append([]string{"../testdata/client.py"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, strings.NewReader(stdin), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// TestAClientInAnotherLanguage shows that PROTOCOL.md is enough to write one.
func TestAClientInAnotherLanguage(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key, env := r.CreateKey(), pythonEnv(r, "root")

	var hello struct {
		ApplianceId string
		Window      int
	}
	out, stderr, err := python(t, env, "", "hello")
	if err != nil || json.Unmarshal([]byte(out), &hello) != nil || len(hello.ApplianceId) != 36 || hello.Window == 0 {
		t.Fatalf("hello: %v, %s%s", err, out, stderr)
	}
	blob, stderr, err := python(t, env, "attack at dawn", "encrypt", key, "to=bob", "a=1", "aa=2")
	if err != nil || len(blob) != len("attack at dawn")+105 {
		t.Fatalf("encrypt: %v, %d bytes, %s", err, len(blob), stderr)
	}
	if out, stderr, err = python(t, env, blob, "decrypt", "aa=2", "a=1", "to=bob"); err != nil || out != "attack at dawn" {
		t.Errorf("decrypt: %v, %q, %s", err, out, stderr)
	}
	if out, stderr, err = python(t, env, "", "together", key, "200"); err != nil || out != "OK\n" {
		t.Errorf("200 requests under way: %v, %q, %s", err, out, stderr)
	}
	if out, stderr, err = python(t, env, "", "status"); err != nil || !strings.Contains(out, hello.ApplianceId) {
		t.Errorf("status: %v, %q, %s", err, out, stderr)
	}
}

// TestAClientInAnotherLanguageIsRefused meets a wrong context, a wrong pin, and a
// key that nobody registered.
func TestAClientInAnotherLanguageIsRefused(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key, env := r.CreateKey(), pythonEnv(r, "root")
	blob, stderr, err := python(t, env, "attack at dawn", "encrypt", key)
	if err != nil {
		t.Fatalf("encrypt: %v, %s", err, stderr)
	}
	r.Certificate("nobody")
	for want, run := range map[string]func() (string, string, error){
		"kind 13 ": func() (string, string, error) { return python(t, env, blob, "decrypt", "to=eve") },
		"kind 2 ":  func() (string, string, error) { return python(t, env, "", "encrypt", key) },
		"not the pinned one": func() (string, string, error) {
			return python(t, append(env, client.EnvServerKey+"=sha256:00"), "", "hello")
		},
		"kind 7 : no principal": func() (string, string, error) { return python(t, pythonEnv(r, "nobody"), "", "hello") },
	} {
		if out, stderr, err := run(); err == nil || out != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: %v, printed %q and %q", want, err, out, stderr)
		}
	}
}
