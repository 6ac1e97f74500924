package kms_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// listKeys returns the keys of an account, page by page, and how many pages.
func listKeys(tb testing.TB, d *desk, who *identity.Principal, limit int64) (all []kmsapi.KeyListEntry, pages int) {
	tb.Helper()
	for marker := ""; ; {
		out, err := ask(tb, d, who, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: limit, Marker: marker})
		if err != nil {
			tb.Fatal(err)
		}
		if out.Truncated != (out.NextMarker != "") || limit > 0 && len(out.Keys) > int(limit) {
			tb.Fatalf("a page of at most %d has %d keys, truncated: %t, marker %q", limit, len(out.Keys), out.Truncated, out.NextMarker)
		}
		all = append(all, out.Keys...)
		pages++
		if marker = out.NextMarker; marker == "" {
			return all, pages
		}
	}
}

// TestListKeys: every key of the account and no other, once, in the order of
// ids, whatever the length of a page.
func TestListKeys(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d, me := newDesk(r), rootOf(racktest.Account)
	if all, pages := listKeys(t, d, me, 0); len(all) != 0 || pages != 1 {
		t.Errorf("an empty account has %d keys on %d pages", len(all), pages)
	}
	var want []kmsapi.KeyListEntry
	for range 7 {
		arn := r.CreateKey()
		want = append(want, kmsapi.KeyListEntry{KeyId: keyID(t, arn).String(), KeyArn: arn})
	}
	strangersKey(t, r)
	slices.SortFunc(want, func(a, b kmsapi.KeyListEntry) int { return strings.Compare(a.KeyId, b.KeyId) })
	for limit, wantPages := range map[int64]int{0: 1, 1: 7, 2: 4, 3: 3, 6: 2, 7: 1, 8: 1, 1000: 1} {
		if got, pages := listKeys(t, d, me, limit); !slices.Equal(got, want) || pages != wantPages {
			t.Errorf("limit %d: got %v on %d pages, want %v on %d", limit, got, pages, want, wantPages)
		}
	}
}

// TestPagesHaveADefault: how long a page is if nobody says.
func TestPagesHaveADefault(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	keys := []string{r.CreateKey(), r.CreateKey()}
	for i := range api.ListedAliases + 1 {
		createAlias(t, r, fmt.Sprint("alias/", i), keys[i%2])
	}
	out, err := client.Do(t.Context(), r.Client, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{})
	if err != nil || len(out.Aliases) != api.ListedAliases || !out.Truncated {
		t.Errorf("got %d aliases, truncated: %t, %v", len(out.Aliases), out.Truncated, err)
	}
	for range api.ListedKeys {
		r.CreateKey()
	}
	if all, pages := listKeys(t, newDesk(r), rootOf(racktest.Account), 0); len(all) != api.ListedKeys+2 || pages != 2 {
		t.Errorf("got %d keys on %d pages", len(all), pages)
	}
}

// TestLimitsOfPages: AWS's bounds.
func TestLimitsOfPages(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for limit, want := range map[int64]api.Kind{-1: api.KindValidation, 1: api.KindNone, 100: api.KindNone, 101: api.KindValidation, 1001: api.KindValidation} {
		_, err := client.Do(t.Context(), r.Client, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{Limit: limit})
		wantKind(t, err, want)
	}
	for limit, want := range map[int64]api.Kind{-1: api.KindValidation, 1: api.KindNone, 1000: api.KindNone, 1001: api.KindValidation} {
		_, err := client.Do(t.Context(), r.Client, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: limit})
		wantKind(t, err, want)
	}
}

// TestMarkers: a marker opens the page behind it, of its own list and account,
// and is refused everywhere else and in every other form.
func TestMarkers(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d, me, other := newDesk(r), rootOf(racktest.Account), rootOf(racktest.Other)
	keys := []string{r.CreateKey(), r.CreateKey()}
	for _, name := range []string{"alias/a", "alias/b", "alias/c"} {
		createAlias(t, r, name, keys[0])
		createAlias(t, r, name+"2", keys[1])
	}
	listed, err := ask(t, d, me, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	ofKeys := listed.NextMarker
	aliases := func(who *identity.Principal, key, marker string) (*kmsapi.ListAliasesResponse, error) {
		return ask(t, d, who, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: ref(key), Limit: 1, Marker: marker})
	}
	first, err := aliases(me, "", "")
	if err != nil {
		t.Fatal(err)
	}
	ofKey, err := aliases(me, keys[0], "")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := aliases(me, "", first.NextMarker); err != nil || again.Aliases[0].AliasName != "alias/b" {
		t.Errorf("the second page is %+v, %v", again, err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(first.NextMarker)
	if err != nil {
		t.Fatal(err)
	}
	bad := []string{
		ofKeys, ofKey.NextMarker, "x", "====", first.NextMarker + "=", first.NextMarker + "A", " " + first.NextMarker,
		base64.RawURLEncoding.EncodeToString(raw[:17]), base64.RawURLEncoding.EncodeToString(raw[1:]),
	}
	for i := range raw {
		for _, bit := range []byte{1, 0x80} {
			forged := slices.Clone(raw)
			forged[i] ^= bit
			bad = append(bad, base64.RawURLEncoding.EncodeToString(forged))
		}
	}
	for n := range first.NextMarker {
		if n > 0 {
			bad = append(bad, first.NextMarker[:n])
		}
	}
	for _, marker := range bad {
		_, err := aliases(me, "", marker)
		wantKind(t, err, api.KindInvalidMarker)
	}
	for name, try := range map[string]func() error{
		"by another account": func() error { _, err := aliases(other, "", first.NextMarker); return err },
		"of another key":     func() error { _, err := aliases(me, keys[1], ofKey.NextMarker); return err },
		"of all, for a key":  func() error { _, err := aliases(me, keys[0], first.NextMarker); return err },
		"of aliases, for keys": func() error {
			_, err := ask(t, d, me, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Marker: first.NextMarker})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { wantKind(t, try(), api.KindInvalidMarker) })
	}
	if _, err := ask(t, d, me, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Marker: strings.Repeat("A", 1025)}); api.KindOf(err) != api.KindValidation {
		t.Errorf("a marker too long: %v", err)
	}
}

// TestAMarkerHasOneSpelling: the bits of base64 that hold nothing are zero.
func TestAMarkerHasOneSpelling(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key := r.CreateKey()
	for _, name := range []string{"alias/aa", "alias/bb"} { // of 2 bytes, which leave 4 bits over
		createAlias(t, r, name, key)
	}
	page := func(marker string) (*kmsapi.ListAliasesResponse, error) {
		return client.Do(t.Context(), r.Client, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{Limit: 1, Marker: marker})
	}
	first, err := page("")
	if err != nil {
		t.Fatal(err)
	}
	if second, err := page(first.NextMarker); err != nil || second.Aliases[0].AliasName != "alias/bb" {
		t.Errorf("the second page is %+v, %v", second, err)
	}
	last := len(first.NextMarker) - 1
	respelled := first.NextMarker[:last] + string(first.NextMarker[last]+1)
	if a, err := base64.RawURLEncoding.DecodeString(respelled); err != nil || base64.RawURLEncoding.EncodeToString(a) != first.NextMarker {
		t.Fatalf("%s is not another spelling of %s: %v", respelled, first.NextMarker, err)
	}
	_, err = page(respelled)
	wantKind(t, err, api.KindInvalidMarker)
}

// TestAMarkerOutlivesItsRow: the page behind a row that was deleted meanwhile.
func TestAMarkerOutlivesItsRow(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key := r.CreateKey()
	for _, name := range []string{"alias/a", "alias/b", "alias/c"} {
		createAlias(t, r, name, key)
	}
	page, err := client.Do(t.Context(), r.Client, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: "alias/b"}); err != nil {
		t.Fatal(err)
	}
	rest, err := client.Do(t.Context(), r.Client, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{Limit: 2, Marker: page.NextMarker})
	if err != nil || len(rest.Aliases) != 1 || rest.Aliases[0].AliasName != "alias/c" || rest.Truncated {
		t.Errorf("the rest is %+v, %v", rest, err)
	}
}
