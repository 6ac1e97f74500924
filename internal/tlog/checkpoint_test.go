package tlog_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyrack/keyrack/internal/tlog"
)

const origin = "rack.example/audit/1"

// key is a P-256 key in memory with its two halves as the package wants them.
type key struct {
	priv *ecdsa.PrivateKey
	sign tlog.Signer
	open tlog.Verifier
}

func newKey(t testing.TB, name string) key {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign, err := tlog.NewP256Signer(name, &priv.PublicKey, func(digest []byte) ([]byte, error) {
		return ecdsa.SignASN1(rand.Reader, priv, digest)
	})
	if err != nil {
		t.Fatal(err)
	}
	open, err := tlog.NewP256Verifier(name, &priv.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key{priv, sign, open}
}

func TestNote(t *testing.T) {
	t.Parallel()
	k, stranger := newKey(t, origin), newKey(t, origin)
	want := tlog.Checkpoint{Origin: origin, Size: 20852163, Root: tlog.LeafHash([]byte("x"))}
	msg, err := want.Sign(k.sign)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tlog.Open(msg, stranger.open, k.open); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := tlog.Open(msg, stranger.open); !errors.Is(err, tlog.ErrSignature) {
		t.Errorf("stranger's key: %v", err)
	}
	if _, err := tlog.Open(msg); !errors.Is(err, tlog.ErrSignature) {
		t.Errorf("no key: %v", err)
	}
	for i := range msg {
		for bit := range 8 {
			bad := append([]byte(nil), msg...)
			bad[i] ^= 1 << bit
			if _, err := tlog.Open(bad, k.open); err == nil {
				t.Errorf("bit %d of byte %d changed, note still opens: %q", bit, i, bad)
			}
		}
	}
	if _, err := tlog.Open(make([]byte, tlog.MaxNote+1), k.open); !errors.Is(err, tlog.ErrCheckpoint) {
		t.Errorf("huge note: %v", err)
	}
}

// TestTwoSigners is a witness beside the token: an Ed25519 line made by golang.org/x/mod, which
// fixed that format.
func TestTwoSigners(t *testing.T) {
	t.Parallel()
	k := newKey(t, origin)
	skey, vkey, err := note.GenerateKey(rand.Reader, "witness.example/w")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := tlog.Checkpoint{Origin: origin, Size: 1, Root: tlog.LeafHash(nil)}.Sign(k.sign, signer)
	if err != nil {
		t.Fatal(err)
	}
	witness, err := tlog.ParseVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string][]tlog.Verifier{"log": {k.open}, "witness": {witness}, "both": {k.open, witness}} {
		if _, err := tlog.Open(msg, keys...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrong := []byte(strings.Replace(string(msg), "\n1\n", "\n2\n", 1))
	if _, err := tlog.Open(wrong, witness); !errors.Is(err, tlog.ErrSignature) {
		t.Errorf("other text: %v", err)
	}
}

func TestVerifierKeys(t *testing.T) {
	t.Parallel()
	k := newKey(t, origin)
	line, err := tlog.FormatP256(origin, &k.priv.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tlog.ParseVerifier(line)
	if err != nil {
		t.Fatal(err)
	}
	if v.Name() != origin || v.KeyHash() != k.open.KeyHash() || fmt.Sprint(v) != line {
		t.Errorf("got %v, want %s", v, line)
	}
	_, ed, err := note.GenerateKey(rand.Reader, "witness.example/w")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "a+b", "a+00000000+", "a+00000000+!", line[:len(line)-4], line + "=",
		strings.Replace(line, "+", "+0", 1), ed[:len(ed)-4], "a+00000000+Aw=="} {
		if _, err := tlog.ParseVerifier(bad); !errors.Is(err, tlog.ErrKey) {
			t.Errorf("%q: got %v, want ErrKey", bad, err)
		}
	}
}

func TestWrongKeys(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k := newKey(t, origin)
	for _, c := range []struct {
		name string
		pub  *ecdsa.PublicKey
	}{{"", &k.priv.PublicKey}, {"a b", &k.priv.PublicKey}, {"a+b", &k.priv.PublicKey}, {"a", nil}, {"a", &p384.PublicKey}} {
		if _, err := tlog.NewP256Verifier(c.name, c.pub); !errors.Is(err, tlog.ErrKey) {
			t.Errorf("%q: got %v, want ErrKey", c.name, err)
		}
		if _, err := tlog.NewP256Signer(c.name, c.pub, nil); !errors.Is(err, tlog.ErrKey) {
			t.Errorf("%q: got %v, want ErrKey", c.name, err)
		}
	}
}

// TestSignerThatErrs holds back what a faulty token answers.
func TestSignerThatErrs(t *testing.T) {
	t.Parallel()
	k := newKey(t, origin)
	broken := errors.New("token gone")
	for name, c := range map[string]struct {
		sign func([]byte) ([]byte, error)
		want error
	}{
		"error":           {func([]byte) ([]byte, error) { return nil, broken }, broken},
		"wrong signature": {func([]byte) ([]byte, error) { return ecdsa.SignASN1(rand.Reader, k.priv, make([]byte, 32)) }, tlog.ErrSignature},
	} {
		s, err := tlog.NewP256Signer(origin, &k.priv.PublicKey, c.sign)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tlog.Checkpoint{Origin: origin}).Sign(s); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestCheckpointText(t *testing.T) {
	t.Parallel()
	root := "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	good := "example.com/behind-the-sofa\n20852163\n" + root + "\n"
	c, err := tlog.ParseCheckpoint(good)
	if err != nil || c.Text() != good || c.Size != 20852163 {
		t.Errorf("got %v, %v", c, err)
	}
	for _, bad := range []string{"", "\n0\n" + root + "\n", "a\n0\n" + root, "a\n01\n" + root + "\n", "a\n+1\n" + root + "\n", "a\n-1\n" + root + "\n",
		"a\n18446744073709551616\n" + root + "\n", "a\n1\n" + root[:40] + "\n", "a\n1\n" + root + "\nextension\n", "a b\n1\n" + root + "\n",
		"a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n", "a\x01\n1\n" + root + "\n"} {
		if _, err := tlog.ParseCheckpoint(bad); !errors.Is(err, tlog.ErrCheckpoint) {
			t.Errorf("%q: got %v, want ErrCheckpoint", bad, err)
		}
	}
	if _, err := (tlog.Checkpoint{Origin: "a b"}).Sign(); !errors.Is(err, tlog.ErrCheckpoint) {
		t.Errorf("bad origin signed: %v", err)
	}
}

// TestKnownNote is the example of C2SP tlog-checkpoint, whose Ed25519 key is not published: it
// parses, and nobody of ours signed it.
func TestKnownNote(t *testing.T) {
	t.Parallel()
	msg := []byte("example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" +
		"— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n")
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line, err := note.NewEd25519VerifierKey("example.com/behind-the-sofa", pub)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tlog.ParseVerifier(line)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tlog.Open(msg, v); !errors.Is(err, tlog.ErrSignature) {
		t.Errorf("got %v, want ErrSignature", err)
	}
}

func FuzzOpen(f *testing.F) {
	k := newKey(f, origin)
	msg, err := tlog.Checkpoint{Origin: origin, Size: 7, Root: tlog.LeafHash(nil)}.Sign(k.sign)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := tlog.Open(b, k.open); err == nil && !strings.HasPrefix(string(b), origin+"\n7\n") {
			t.Errorf("forged: %q", b)
		}
		if c, err := tlog.ParseCheckpoint(string(b)); err == nil && c.Text() != string(b) {
			t.Errorf("accepted %q, writes %q", b, c.Text())
		}
	})
}
