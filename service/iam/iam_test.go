package iam_test

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/iam"
)

// hashOf returns what an appliance knows a certificate by.
func hashOf(cert tls.Certificate) string {
	return identity.HashOf(cert.Leaf.RawSubjectPublicKeyInfo).String()
}

// someHash returns the hash of a key that nobody has.
func someHash(n int) string { return fmt.Sprintf("sha256:%064x", n) }

func add(tb testing.TB, c *client.Client, name, account, hash string) (applianceapi.Principal, error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, applianceapi.AddPrincipal, &applianceapi.AddPrincipalRequest{Name: name, Account: account, KeyHash: hash})
	if err != nil {
		return applianceapi.Principal{}, err
	}
	return out.Principal, nil
}

func mustAdd(tb testing.TB, r *racktest.Rack, name, hash string) applianceapi.Principal {
	tb.Helper()
	p, err := add(tb, r.Operator, name, racktest.Account.String(), hash)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func remove(tb testing.TB, c *client.Client, name string) error {
	tb.Helper()
	_, err := client.Do(tb.Context(), c, applianceapi.RemovePrincipal, &applianceapi.RemovePrincipalRequest{Name: name})
	return err
}

func list(tb testing.TB, c *client.Client, limit int64, marker string) (names []string, next string) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, applianceapi.ListPrincipals, &applianceapi.ListPrincipalsRequest{Limit: limit, Marker: marker})
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range out.Principals {
		names = append(names, p.Name)
	}
	return names, out.NextMarker
}

func wantKind(tb testing.TB, err error, want api.Kind) {
	tb.Helper()
	if got := api.KindOf(err); got != want {
		tb.Errorf("got %v (%v), want %v", got, err, want)
	}
}

// use makes a call as the client of a certificate.
func use(tb testing.TB, c *client.Client) error {
	tb.Helper()
	_, err := client.Do(tb.Context(), c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	return err
}

func TestAddedClientMayCall(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	cfg := r.Config
	cfg.Certificate = r.Certificate("web")
	wantKind(t, use(t, r.NewClient(cfg)), api.KindUnrecognizedClient)
	p := mustAdd(t, r, "web", hashOf(cfg.Certificate))
	if p.Name != "web" || p.Account != racktest.Account.String() || p.KeyHash != hashOf(cfg.Certificate) ||
		p.Arn != "arn:aws:iam::"+racktest.Account.String()+":root" || p.CreationDate == 0 {
		t.Errorf("added %+v", p)
	}
	c := r.NewClient(cfg)
	if err := use(t, c); err != nil {
		t.Fatal(err)
	}
	if err := remove(t, r.Operator, "web"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, use(t, c), api.KindUnrecognizedClient)
	wantKind(t, use(t, r.NewClient(cfg)), api.KindUnrecognizedClient)
	mustAdd(t, r, "web", hashOf(cfg.Certificate)) // name and key are free again
	if err := use(t, c); err != nil {             // on the connection that was refused before
		t.Fatal(err)
	}
}

// TestPrincipalsOutliveTheProcess looks for them after a start from disk.
func TestPrincipalsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	cfg := r.Config
	cfg.Certificate = r.Certificate("web")
	mustAdd(t, r, "web", hashOf(cfg.Certificate))
	mustAdd(t, r, "gone", someHash(1))
	if err := remove(t, r.Operator, "gone"); err != nil {
		t.Fatal(err)
	}
	r.Restart(nil)
	if names, _ := list(t, r.Operator, 0, ""); !slices.Equal(names, []string{"web"}) {
		t.Errorf("got %q", names)
	}
	if err := use(t, r.NewClient(cfg)); err != nil {
		t.Error(err)
	}
}

func TestAddRefusals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	mustAdd(t, r, "web", someHash(1))
	const account = "111122223333"
	for name, c := range map[string]struct {
		name, account, hash string
		want                api.Kind
		says                string
	}{
		"name taken":                {"web", account, someHash(2), api.KindAlreadyExists, "principal web of account 111122223333"},
		"name taken elsewhere":      {"web", "444455556666", someHash(2), api.KindAlreadyExists, "principal web of account 111122223333"},
		"key taken":                 {"api", account, someHash(1), api.KindAlreadyExists, "principal web of account 111122223333"},
		"key taken elsewhere":       {"api", "444455556666", someHash(1), api.KindAlreadyExists, "principal web"},
		"no name":                   {"", account, someHash(2), api.KindValidation, "'name'"},
		"name too long":             {strings.Repeat("n", 65), account, someHash(2), api.KindValidation, "'name'"},
		"name with a slash":         {"a/b", account, someHash(2), api.KindValidation, "'name'"},
		"name with a space":         {"a b", account, someHash(2), api.KindValidation, "'name'"},
		"name of another alphabet":  {"größe", account, someHash(2), api.KindValidation, "'name'"},
		"account too short":         {"api", "11112222333", someHash(2), api.KindValidation, "'account'"},
		"account of letters":        {"api", "11112222333x", someHash(2), api.KindValidation, "'account'"},
		"no account":                {"api", "", someHash(2), api.KindValidation, "'account'"},
		"hash of another algorithm": {"api", account, "sha512:" + strings.Repeat("0", 64), api.KindValidation, "'keyHash'"},
		"hash in capitals":          {"api", account, "sha256:" + strings.Repeat("A", 64), api.KindValidation, "'keyHash'"},
		"hash too short":            {"api", account, "sha256:" + strings.Repeat("0", 63), api.KindValidation, "'keyHash'"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := add(t, r.Operator, c.name, c.account, c.hash)
			wantKind(t, err, c.want)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it to say %q", err, c.says)
			}
		})
	}
	if names, _ := list(t, r.Operator, 0, ""); !slices.Equal(names, []string{"web"}) {
		t.Errorf("there are %q", names)
	}
	wantKind(t, remove(t, r.Operator, "api"), api.KindNotFound)
	wantKind(t, remove(t, r.Operator, strings.Repeat("ü", 64)), api.KindNotFound)
	wantKind(t, remove(t, r.Operator, ""), api.KindValidation)
}

// TestNamesTakeEveryCharacter that AWS's may have, and the longest.
func TestNamesTakeEveryCharacter(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for i, name := range []string{"azAZ09+=,.@_-", strings.Repeat("n", 64), "."} {
		mustAdd(t, r, name, someHash(i))
	}
}

// TestStrangersManageNobody: roots of accounts are not the operator.
func TestStrangersManageNobody(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	mustAdd(t, r, "web", someHash(1))
	_, err := add(t, r.Client, "api", racktest.Account.String(), someHash(2))
	wantKind(t, err, api.KindAccessDenied)
	wantKind(t, remove(t, r.Stranger, "web"), api.KindAccessDenied)
	_, err = client.Do(t.Context(), r.Stranger, applianceapi.ListPrincipals, &applianceapi.ListPrincipalsRequest{})
	wantKind(t, err, api.KindAccessDenied)
	for _, op := range []error{
		doErr(t, r.Client, applianceapi.Unlock, &applianceapi.UnlockRequest{}),
		doErr(t, r.Client, applianceapi.Lock, &applianceapi.LockRequest{}),
		doErr(t, r.Client, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{}),
		doErr(t, r.Client, applianceapi.CheckRecords, &applianceapi.CheckRecordsRequest{}),
	} {
		wantKind(t, op, api.KindAccessDenied)
	}
	if names, _ := list(t, r.Operator, 0, ""); !slices.Equal(names, []string{"web"}) {
		t.Errorf("there are %q", names)
	}
}

func doErr[In, Out any](tb testing.TB, c *client.Client, op api.OpOf[In, Out], in *In) error {
	tb.Helper()
	_, err := client.Do(tb.Context(), c, op, in)
	return err
}

// TestListPages walks pages of every size over names whose order by length is another.
func TestListPages(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	want := []string{"A", "Zebra", "a", "aa", "ab", "b", "longest-of-all"}
	for i, at := range []int{3, 0, 6, 1, 5, 2, 4} {
		mustAdd(t, r, want[at], someHash(i))
	}
	for limit := int64(1); limit <= 8; limit++ {
		var got []string
		for marker, pages := "", 0; pages == 0 || marker != ""; pages++ {
			page, next := list(t, r.Operator, limit, marker)
			if len(page) > int(limit) || len(page) == 0 || next == marker && next != "" {
				t.Fatalf("limit %d: a page of %d behind %q, next %q", limit, len(page), marker, next)
			}
			got, marker = append(got, page...), next
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: got %q", limit, got)
		}
	}
	if page, next := list(t, r.Operator, 0, "aaa"); !slices.Equal(page, want[4:]) || next != "" {
		t.Errorf("behind a name that is not there: %q, %q", page, next)
	}
	err := doErr(t, r.Operator, applianceapi.ListPrincipals, &applianceapi.ListPrincipalsRequest{Limit: 1001})
	wantKind(t, err, api.KindValidation)
}

// TestRemovedUnderLoad takes a client away while many of its requests are on
// their way on open connections: none that was sent after the removal is served.
func TestRemovedUnderLoad(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	cfg := r.Config
	cfg.Certificate, cfg.Conns = r.Certificate("web"), 4
	mustAdd(t, r, "web", hashOf(cfg.Certificate))
	c := r.NewClient(cfg)
	var removed atomic.Bool
	var served atomic.Int64
	var wg sync.WaitGroup
	enough := make(chan struct{}, 1)
	for range 8 {
		wg.Go(func() {
			for {
				before := removed.Load()
				err := use(t, c)
				switch {
				case err == nil && before:
					t.Error("served after it was removed")
					return
				case err != nil:
					wantKind(t, err, api.KindUnrecognizedClient)
					return
				}
				if served.Add(1) == 100 {
					enough <- struct{}{}
				}
			}
		})
	}
	<-enough
	if err := remove(t, r.Operator, "web"); err != nil {
		t.Error(err)
	}
	removed.Store(true)
	wg.Wait()
}

// TestRecords looks at what the audit log says of additions and removals.
func TestRecords(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	mustAdd(t, r, "web", someHash(1))
	if err := remove(t, r.Operator, "web"); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, rec := range r.Records() {
		var shown []byte
		switch rec.Op {
		case applianceapi.AddPrincipal.Number:
			shown = rec.Request
		case applianceapi.RemovePrincipal.Number:
			shown = rec.Response
		default:
			continue
		}
		seen++
		for _, want := range []string{"web", racktest.Account.String(), someHash(1)} {
			if !strings.Contains(string(shown), want) {
				t.Errorf("operation %d: the record does not show %s: %q", rec.Op, want, shown)
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d records of changes, want 2", seen)
	}
	r.Verify()
}

// TestOneOfManyGetsTheName lets operators race for a name, and for a key.
func TestOneOfManyGetsTheName(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for i, of := range []func(i int) (string, string){
		func(i int) (string, string) { return "web", someHash(i) },
		func(i int) (string, string) { return fmt.Sprint("client-", i), someHash(99) },
	} {
		var won atomic.Int64
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				name, hash := of(n + 1)
				if _, err := add(t, r.Operator, name, "44445555666"+fmt.Sprint(n), hash); err == nil {
					won.Add(1)
				} else {
					wantKind(t, err, api.KindAlreadyExists)
				}
			})
		}
		if wg.Wait(); won.Load() != 1 {
			t.Errorf("race %d: %d were registered", i, won.Load())
		}
	}
}

// TestNoMoreThanAllowed fills a service that takes two.
func TestNoMoreThanAllowed(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	s, err := iam.New(t.Context(), iam.Config{
		Store: keystore.NewMemory(), Realm: realm, Directory: new(identity.Directory), MaxPrincipals: 2, Logger: racktest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	operator := &identity.Principal{ARN: "arn:aws:keyrack:rack-1::operator", Type: identity.Operator}
	for i, want := range []api.Kind{api.KindNone, api.KindNone, api.KindLimitExceeded} {
		session := r.Gate().Session(t.Context(), identity.Always(operator), "test")
		body := applianceapi.AddPrincipal.In.AppendCBOR(nil, &applianceapi.AddPrincipalRequest{
			Name: fmt.Sprint("client-", i), Account: tenant.String(), KeyHash: someHash(i)})
		add := s.Routes(r.Gate())[0]
		if add.Op() != applianceapi.AddPrincipal.Op || add.Serve(session.Call(1), protocol.Native{}, body) != work.Store {
			t.Fatalf("%s did not ask for a worker", add.Op())
		}
		add.Serve(session.Again(t.Context(), session.Call(1).Ticket()), protocol.Native{}, body)
		held := session.Flush(true)
		b, err := held.Bytes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		frame, _, _, _ := protocol.Split(b, api.MaxReplyFrame)
		if reply, err := protocol.ParseReply(frame); err != nil || reply.Kind != want {
			t.Errorf("addition %d: got %v, %v, want %v", i, reply.Kind, err, want)
		}
		held.Release()
		session.Close()
	}
}
