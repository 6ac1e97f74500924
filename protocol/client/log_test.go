package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// signer signs checkpoints of the log "log".
type signer struct {
	tlog.Signer
	key string // verifier key
}

func newSigner(t *testing.T) signer {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	s, err := tlog.NewP256Signer("log", &priv.PublicKey, func(digest []byte) ([]byte, error) {
		return ecdsa.SignASN1(rand.Reader, priv, digest)
	})
	check(t, err)
	key, err := tlog.FormatP256("log", &priv.PublicKey)
	check(t, err)
	return signer{s, key}
}

// leaves is a log: one letter a record.
type leaves string

func (l leaves) hash(lo, hi uint64) tlog.Hash {
	switch n := hi - lo; n {
	case 0:
		return tlog.EmptyRoot
	case 1:
		return tlog.LeafHash([]byte(l[lo:hi]))
	default:
		mid := uint64(1)
		for mid*2 < n {
			mid *= 2
		}
		return tlog.NodeHash(l.hash(lo, lo+mid), l.hash(lo+mid, hi))
	}
}

func (l leaves) note(t *testing.T, s signer, origin string) string {
	t.Helper()
	note, err := tlog.Checkpoint{Origin: origin, Size: uint64(len(l)), Root: l.hash(0, uint64(len(l)))}.Sign(s)
	check(t, err)
	return string(note)
}

// proof proves that the log extends its first older records.
func (l leaves) proof(t *testing.T, older int64) (proof []api.Blob) {
	hashes, err := tlog.ProveConsistency(uint64(older), uint64(len(l)), func(level int, index uint64) (tlog.Hash, error) {
		return l.hash(index<<level, (index+1)<<level), nil
	})
	check(t, err)
	for _, h := range hashes {
		proof = append(proof, h[:])
	}
	return proof
}

// shown is what an appliance shows of its log.
type shown struct {
	hello  string              // note in the greeting
	newest []leaves            // what each question in turn is answered from; the last one for ever
	answer func(string) string // changes the note of an answer; nil = as it is
	cut    int                 // bytes to cut from each hash of a proof; -1 adds one
	silent bool                // answers questions about the log with an error
	mute   chan struct{}       // not nil: leaves questions about the log unanswered, and has one element for each

	mu    sync.Mutex
	asked int // guarded by mu; questions about the log
	calls int // guarded by mu; others
}

// serve shows a log and answers other requests.
func (v *shown) serve(t *testing.T, s signer) func(c *peer) {
	return func(c *peer) {
		c.Write(protocol.AppendHello(nil, &protocol.Hello{ApplianceId: strings.Repeat("0", 36), Version: "test", Window: 16, Checkpoint: v.hello}))
		for r, ok := c.request(); ok; r, ok = c.request() {
			switch r.Op {
			case applianceapi.GetAuditConsistency.Number, applianceapi.GetAuditCheckpoint.Number:
				if v.mute != nil {
					v.mute <- struct{}{}
					continue
				}
				c.Write(v.reply(t, s, r))
			default:
				v.mu.Lock()
				v.calls++
				v.mu.Unlock()
				c.Write(protocol.Native{}.AppendReply(nil, kmsapi.CreateKey.Op, r.ID, &kmsapi.CreateKeyResponse{}, nil))
			}
		}
	}
}

func (v *shown) reply(t *testing.T, s signer, r protocol.Request) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.silent || len(v.newest) == 0 {
		return protocol.AppendError(nil, r.ID, &api.Error{Kind: api.KindInternal})
	}
	now := v.newest[0]
	if v.asked++; len(v.newest) > 1 {
		v.newest = v.newest[1:]
	}
	note := now.note(t, s, "log")
	if v.answer != nil {
		note = v.answer(note)
	}
	if r.Op == applianceapi.GetAuditCheckpoint.Number {
		return protocol.Native{}.AppendReply(nil, applianceapi.GetAuditCheckpoint.Op, r.ID, &applianceapi.GetAuditCheckpointResponse{Checkpoint: note}, nil)
	}
	var in applianceapi.GetAuditConsistencyRequest
	check(t, protocol.Native{}.Decode(applianceapi.GetAuditConsistency.Op, r.Body, &in, nil))
	if in.OldSize > int64(len(now)) {
		return protocol.AppendError(nil, r.ID, &api.Error{Kind: api.KindValidation, Message: "beyond"})
	}
	out := applianceapi.GetAuditConsistencyResponse{Checkpoint: note, Proof: now.proof(t, in.OldSize)}
	for i, h := range out.Proof {
		out.Proof[i] = append(h, 0)[:len(h)-v.cut]
	}
	return protocol.Native{}.AppendReply(nil, applianceapi.GetAuditConsistency.Op, r.ID, &out, nil)
}

// place is where a program keeps a checkpoint.
type place struct {
	mu   sync.Mutex
	note []byte // guarded by mu
	err  error  // guarded by mu; of both methods
}

func (p *place) Load() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.note, p.err
}

func (p *place) Store(note []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.note = note
	}
	return p.err
}

func (p *place) holds() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.note)
}

// TestTheLogMayOnlyGrow: what a greeting shows extends what was kept, or the client
// is at its end.
func TestTheLogMayOnlyGrow(t *testing.T) {
	t.Parallel()
	s, other := newSigner(t), newSigner(t)
	note := func(l leaves) string { return l.note(t, s, "log") }
	for name, c := range map[string]struct {
		kept string
		is   *shown
		err  error
		want leaves // newest in the end
		asks int
	}{
		"first":                        {"", &shown{hello: note("abcde")}, nil, "abcde", 0},
		"the same":                     {note("abcde"), &shown{hello: note("abcde")}, nil, "abcde", 0},
		"from nothing":                 {note(""), &shown{hello: note("abcde")}, nil, "abcde", 0},
		"longer":                       {note("abcde"), &shown{hello: note("abcdefgh"), newest: []leaves{"abcdefgh"}}, nil, "abcdefgh", 1},
		"longer meanwhile":             {note("abcde"), &shown{hello: note("abcdefg"), newest: []leaves{"abcdefgh"}}, nil, "abcdefgh", 2},
		"growing":                      {note("a"), &shown{hello: note("ab"), newest: []leaves{"abc", "abcd", "abcde", "abcde"}}, nil, "abcde", 4},
		"an older greeting":            {note("abcdefgh"), &shown{hello: note("abcde"), newest: []leaves{"abcdefgh"}}, nil, "abcdefgh", 1},
		"none yet":                     {"", &shown{}, nil, "", 0},
		"two of a size":                {note("abcde"), &shown{hello: note("abcdx")}, client.ErrForked, "", 0},
		"nothing but another root":     {(leaves("x")).note(t, s, "log"), &shown{hello: note("a")}, client.ErrForked, "", 0},
		"rewritten":                    {note("abcde"), &shown{hello: note("abcxefgh"), newest: []leaves{"abcxefgh"}}, client.ErrForked, "", 1},
		"an older greeting, rewritten": {note("abcdefgh"), &shown{hello: note("abxde"), newest: []leaves{"abcdefgh"}}, client.ErrForked, "", 1},
		"shorter":                      {note("abcdefgh"), &shown{hello: note("abcde"), newest: []leaves{"abcde"}}, client.ErrForked, "", 1},
		"shorter than the greeting":    {note("abc"), &shown{hello: note("abcdefgh"), newest: []leaves{"abcde"}}, client.ErrForked, "", 1},
		"shorter than what was kept":   {note("abcdefgh"), &shown{hello: note("abcdefghi"), newest: []leaves{"abc"}}, client.ErrForked, "", 2},
		"gone":                         {note("abcde"), &shown{}, client.ErrForked, "", 0},
		"short hashes":                 {note("abcde"), &shown{hello: note("abcdefgh"), newest: []leaves{"abcdefgh"}, cut: 1}, client.ErrForked, "", 1},
		"long hashes":                  {note("abcde"), &shown{hello: note("abcdefgh"), newest: []leaves{"abcdefgh"}, cut: -1}, client.ErrForked, "", 1},
		"of another key":               {"", &shown{hello: leaves("abcde").note(t, other, "log")}, client.ErrUnsigned, "", 0},
		"of another log":               {"", &shown{hello: leaves("abcde").note(t, s, "lag")}, client.ErrUnsigned, "", 0},
		"no note":                      {"", &shown{hello: "a checkpoint"}, client.ErrUnsigned, "", 0},
		"an answer that is not signed": {note("abcde"), &shown{hello: note("abcdefgh"), newest: []leaves{"abcdefgh"}, answer: func(n string) string { return strings.Replace(n, "8", "9", 1) }}, client.ErrUnsigned, "", 1},
		"a refusal that is not signed": {note("abcdefgh"), &shown{hello: note("abcdefghi"), newest: []leaves{"abc"}, answer: func(string) string { return "" }}, client.ErrUnsigned, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAppliance(t, 0, c.is.serve(t, s))
			kept := &place{note: []byte(c.kept)}
			cl := a.client(func(cfg *client.Config) { cfg.AuditKey, cfg.Checkpoints = s.key, kept })
			err := create(t.Context(), cl)
			if c.err == nil {
				grown(t, cl, kept, err, c.want)
			} else {
				distrusted(t, a, cl, c.err, c.kept)
			}
			cl.Close()
			c.is.mu.Lock()
			defer c.is.mu.Unlock()
			if errors.Is(c.err, client.ErrUnsigned) && c.asks == 0 && c.is.calls != 0 {
				t.Errorf("%d calls were made to an appliance whose greeting is not signed", c.is.calls)
			}
			if c.is.asked != c.asks {
				t.Errorf("%d questions were asked, want %d", c.is.asked, c.asks)
			}
		})
	}
}

// grown checks that a client takes a log that has become want.
func grown(t *testing.T, c *client.Client, kept *place, err error, want leaves) {
	t.Helper()
	if err != nil {
		t.Errorf("a call: %v", err)
	}
	size := func(note string) string { head, _, _ := strings.Cut(note, "\n\n"); return head }
	text := ""
	if want != "" {
		text = strings.TrimSuffix(tlog.Checkpoint{Origin: "log", Size: uint64(len(want)), Root: want.hash(0, uint64(len(want)))}.Text(), "\n")
	}
	eventually(t, fmt.Sprintf("a checkpoint of %d records", len(want)), func() bool {
		note, err := c.Checkpoint()
		return size(note) == text && err == nil && size(kept.holds()) == text
	})
	if err := create(t.Context(), c); err != nil {
		t.Errorf("a later call: %v", err)
	}
}

// distrusted checks that a client has come to its end because of want, and shows both notes.
func distrusted(t *testing.T, a *appliance, c *client.Client, want error, kept string) {
	t.Helper()
	eventually(t, "distrust", func() bool { _, err := c.Checkpoint(); return errors.Is(err, want) })
	eventually(t, "the end", func() bool { return errors.Is(create(t.Context(), c), want) })
	before := a.connections()
	_, err := client.Do(t.Context(), c, kmsapi.ListKeys, &kmsapi.ListKeysRequest{})
	evidence, ok := errors.AsType[*client.LogError](err)
	if !ok || !errors.Is(err, want) || a.connections() != before {
		t.Errorf("a later call ends with %v after %d further connections", err, a.connections()-before)
	} else if evidence.Got == evidence.Kept || errors.Is(want, client.ErrForked) && evidence.Kept == "" {
		t.Errorf("the evidence is %+v", evidence)
	}
	if note, _ := c.Checkpoint(); note != kept {
		t.Errorf("the client has now kept %q", note)
	}
	c.Close()
	if err := create(t.Context(), c); !errors.Is(err, want) {
		t.Errorf("after Close: %v", err)
	}
}

// TestAnUnansweredQuestionIsNoContradiction, but is told.
func TestAnUnansweredQuestionIsNoContradiction(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	old := leaves("abc").note(t, s, "log")
	is := &shown{hello: leaves("abcde").note(t, s, "log"), silent: true}
	kept := &place{note: []byte(old)}
	c := newAppliance(t, 0, is.serve(t, s)).client(func(cfg *client.Config) { cfg.AuditKey, cfg.Checkpoints = s.key, kept })
	check(t, create(t.Context(), c))
	eventually(t, "an error", func() bool { _, err := c.Checkpoint(); return api.KindOf(err) == api.KindInternal })
	if note, _ := c.Checkpoint(); note != old || kept.holds() != old {
		t.Errorf("a checkpoint was kept that nobody has proven: %q", note)
	}
	if err := create(t.Context(), c); err != nil {
		t.Errorf("a call: %v", err)
	}
}

// TestAClosedClientBlamesNobody: a program that ends while the log is being compared has
// nothing to warn of.
func TestAClosedClientBlamesNobody(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	is := &shown{hello: leaves("abcde").note(t, s, "log"), mute: make(chan struct{}, 8)}
	kept := &place{note: []byte(leaves("abc").note(t, s, "log"))}
	c := newAppliance(t, 0, is.serve(t, s)).client(func(cfg *client.Config) { cfg.AuditKey, cfg.Checkpoints = s.key, kept })
	check(t, create(t.Context(), c))
	<-is.mute
	c.Close()
	if err := c.CheckLog(t.Context()); err != nil {
		t.Errorf("the comparison: %v", err)
	}
	if _, err := c.Checkpoint(); err != nil {
		t.Errorf("the log: %v", err)
	}
}

// TestKeptCheckpointsAreChecked when a client is made; and a place that cannot be
// written is told.
func TestKeptCheckpointsAreChecked(t *testing.T) {
	t.Parallel()
	s, other := newSigner(t), newSigner(t)
	full := errors.New("the place is full")
	for name, c := range map[string]struct {
		key  string
		kept *place
		is   error
	}{
		"of another key":  {s.key, &place{note: []byte(leaves("a").note(t, other, "log"))}, client.ErrUnsigned},
		"nonsense":        {s.key, &place{note: []byte("rose")}, client.ErrUnsigned},
		"cannot be read":  {s.key, &place{err: full}, full},
		"no key":          {"", &place{}, nil},
		"a key of a sort": {"log+00000000+AAAA", &place{}, tlog.ErrKey},
	} {
		_, err := client.New(client.Config{Socket: "/nowhere", AuditKey: c.key, Checkpoints: c.kept})
		if err == nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	is := &shown{hello: leaves("abcde").note(t, s, "log")}
	kept := &place{}
	c := newAppliance(t, 0, is.serve(t, s)).client(func(cfg *client.Config) { cfg.AuditKey, cfg.Checkpoints = s.key, kept })
	kept.mu.Lock()
	kept.err = full
	kept.mu.Unlock()
	check(t, create(t.Context(), c))
	eventually(t, "the error", func() bool { _, err := c.Checkpoint(); return errors.Is(err, full) })
	check(t, create(t.Context(), c))
}

// TestARealLog that grows over restarts is followed; one that is put back to an
// earlier day is found out, also by a program that starts only then.
func TestARealLog(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	kept := &place{}
	cfg := r.Config
	cfg.AuditKey, cfg.Checkpoints = r.AuditKey(), kept
	c := r.NewClient(cfg)
	size := func() uint64 {
		note, err := c.Checkpoint()
		check(t, err)
		text, _, _ := strings.Cut(note, "\n\n")
		p, err := tlog.ParseCheckpoint(text + "\n")
		if err != nil {
			return 0
		}
		return p.Size
	}
	call := func() {
		t.Helper()
		for range 5 {
			_, err := client.Do(t.Context(), c, kmsapi.ListKeys, &kmsapi.ListKeysRequest{})
			check(t, err)
		}
	}
	backup := filepath.Join(t.TempDir(), "backup")
	for was := range uint64(3) {
		call()
		r.Restart(func(*rack.Config) {
			if was == 0 {
				check(t, os.CopyFS(backup, os.DirFS(filepath.Join(r.Dir, "audit"))))
			}
		})
		call()
		eventually(t, "a longer log", func() bool { return size() > 5*was })
	}
	if kept.holds() == "" {
		t.Error("nothing was kept")
	}
	r.Restart(func(*rack.Config) {
		check(t, os.RemoveAll(filepath.Join(r.Dir, "audit")))
		check(t, os.CopyFS(filepath.Join(r.Dir, "audit"), os.DirFS(backup)))
	})
	late := r.NewClient(cfg)
	for name, c := range map[string]*client.Client{"running": c, "new": late} {
		eventually(t, name+": distrust", func() bool {
			_, err := client.Do(context.Background(), c, kmsapi.ListKeys, &kmsapi.ListKeysRequest{})
			return errors.Is(err, client.ErrForked)
		})
	}
}
