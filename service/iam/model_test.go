package iam_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"pgregory.net/rapid"
)

// world is an appliance beside the principals that it should have.
type world struct {
	t  *testing.T
	r  *racktest.Rack
	by map[string]applianceapi.Principal // by name
}

// TestPrincipalsBehaveLikeTheirModel plays random operations of the operator
// against a map, and asks the door who is let in.
func TestPrincipalsBehaveLikeTheirModel(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{t: t, r: r, by: map[string]applianceapi.Principal{}}
		names, _ := list(t, r.Operator, 1000, "")
		for _, name := range names { // of the play before, however that ended
			want(rt, "begin with nobody", remove(t, r.Operator, name), api.KindNone)
		}
		rt.Repeat(map[string]func(*rapid.T){"add": w.add, "remove": w.remove, "list": w.list, "": w.door})
	})
	if got := checked(t, r); got.State != applianceapi.CheckPassed {
		t.Errorf("the check says %+v", got)
	}
}

// checked runs a check to its end.
func checked(tb testing.TB, r *racktest.Rack) *applianceapi.CheckRecordsResponse {
	tb.Helper()
	for in := new(applianceapi.CheckRecordsRequest); ; in.Report = true {
		out, err := client.Do(tb.Context(), r.Operator, applianceapi.CheckRecords, in)
		if err != nil {
			tb.Fatal(err)
		}
		if out.State != applianceapi.CheckRunning {
			return out
		}
	}
}

var (
	modelNames    = []string{"a", "b", "ab", "A", "web@rack", "another-name"}
	modelAccounts = []string{"111122223333", "444455556666", "000000000000"}
)

// modelHash is a key that nobody else has.
func modelHash(rt *rapid.T) string { return key(byte(rapid.IntRange(1, 5).Draw(rt, "key"))).String() }

// want compares what was answered with what should have been.
func want(rt *rapid.T, what string, got error, kind api.Kind) {
	if api.KindOf(got) != kind {
		rt.Fatalf("%s: got %v, want %v", what, got, kind)
	}
}

func (w *world) add(rt *rapid.T) {
	name, account, hash := rapid.SampledFrom(modelNames).Draw(rt, "name"), rapid.SampledFrom(modelAccounts).Draw(rt, "account"), modelHash(rt)
	kind := api.KindNone
	if _, taken := w.by[name]; taken || w.of(hash) != nil {
		kind = api.KindAlreadyExists
	}
	p, err := add(w.t, w.r.Operator, name, account, hash)
	if want(rt, "add", err, kind); err != nil {
		return
	}
	if p.Name != name || p.Account != account || p.KeyHash != hash || p.Arn != "arn:aws:iam::"+account+":root" {
		rt.Fatalf("added %+v", p)
	}
	w.by[name] = p
}

func (w *world) remove(rt *rapid.T) {
	name := rapid.SampledFrom(modelNames).Draw(rt, "name")
	p, known := w.by[name]
	kind := api.KindNone
	if !known {
		kind = api.KindNotFound
	}
	out, err := client.Do(w.t.Context(), w.r.Operator, applianceapi.RemovePrincipal, &applianceapi.RemovePrincipalRequest{Name: name})
	if want(rt, "remove", err, kind); err == nil && out.Principal != p {
		rt.Fatalf("removed %+v, want %+v", out.Principal, p)
	}
	delete(w.by, name)
}

// list asks for one page, wherever it may begin.
func (w *world) list(rt *rapid.T) {
	marker := rapid.SampledFrom(append([]string{"", "aa", "zz"}, modelNames...)).Draw(rt, "marker")
	limit := rapid.IntRange(1, 4).Draw(rt, "limit")
	out, err := client.Do(w.t.Context(), w.r.Operator, applianceapi.ListPrincipals, &applianceapi.ListPrincipalsRequest{Limit: int64(limit), Marker: marker})
	want(rt, "list", err, api.KindNone)
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(w.by)), func(name string) bool { return name <= marker })
	next := ""
	if len(names) > limit {
		names = names[:limit]
		next = names[limit-1]
	}
	var page []applianceapi.Principal
	for _, name := range names {
		page = append(page, w.by[name])
	}
	if !slices.Equal(out.Principals, page) || out.NextMarker != next {
		rt.Fatalf("behind %q, at most %d: got %+v and %q, want %+v and %q", marker, limit, out.Principals, out.NextMarker, page, next)
	}
}

// door looks whom each key is let in as, after every step.
func (w *world) door(rt *rapid.T) {
	for n := byte(1); n <= 5; n++ {
		handle := w.r.People().Handle(key(n), time.Time{})
		got, want := handle.Principal(time.Time{}), w.of(key(n).String())
		if (got != nil) != (want != nil) {
			rt.Fatalf("key %d is let in as %v, want %v", n, got, want)
		}
		if got != nil && (got.Type != identity.Root || got.AccountText() != want.Account || got.ARN != want.Arn || got.Credential.String() != want.KeyHash) {
			rt.Fatalf("key %d is let in as %+v, want %+v", n, got, want)
		}
	}
}

// of returns the principal with a key, or nil.
func (w *world) of(hash string) *applianceapi.Principal {
	for _, p := range w.by {
		if p.KeyHash == hash {
			return &p
		}
	}
	return nil
}
