package kms_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// damaged is a pair of keys, the first with the alias "a", and the ways to their rows.
type damaged struct {
	tb     testing.TB
	r      *racktest.Rack
	a, b   api.KeyID
	ma, mb string // KeyMaterialId
}

func (d *damaged) tx(f func(keystore.Tx) error) {
	d.tb.Helper()
	if _, err := kms.Rows(d.r.KMS()).Update(d.tb.Context(), f); err != nil {
		d.tb.Fatal(err)
	}
}

func (d *damaged) put(n keystore.Name, value string) {
	d.tb.Helper()
	d.tx(func(tx keystore.Tx) error { return tx.Put(n, []byte(value)) })
}

func (d *damaged) remove(n keystore.Name) {
	d.tb.Helper()
	d.tx(func(tx keystore.Tx) error { return tx.Delete(n) })
}

// tag gives the first key a tag.
func (d *damaged) tag(name string) {
	d.tb.Helper()
	if err := tagResource(d.tb, d.r.Client, d.a.String(), tags(name, "")); err != nil {
		d.tb.Fatal(err)
	}
}

// rotate gives the first key a second material.
func (d *damaged) rotate() {
	d.tb.Helper()
	if err := kms.AddMaterial(d.tb, d.r.KMS(), d.a, kmsapi.MaterialCurrent, newSecret(d.tb)); err != nil {
		d.tb.Fatal(err)
	}
}

// current returns which material of the first key is current.
func (d *damaged) current() string {
	d.tb.Helper()
	out, err := client.Do(d.tb.Context(), d.r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(d.a.String())})
	if err != nil {
		d.tb.Fatal(err)
	}
	return unhex(d.tb, out.KeyMetadata.CurrentKeyMaterialId)
}

func account(a api.AccountID) string { return string(a[:]) }

func id(k api.KeyID) string { return string(k[:]) }

// TestCheckFindsEveryInconsistency damages one thing at a time.
func TestCheckFindsEveryInconsistency(t *testing.T) {
	t.Parallel()
	name := keystore.MakeName
	mine, other := account(racktest.Account), account(racktest.Other)
	const key, material, listing, alias, mirror = keystore.SpaceKey, keystore.SpaceMaterial, keystore.SpaceAccountKey, keystore.SpaceAlias, keystore.SpaceKeyAlias
	const keyTags, keyCount, keyMaterials = keystore.SpaceKeyTags, keystore.SpaceKeyCount, keystore.SpaceKeyMaterials
	unknown := string(make([]byte, 16))
	for what, c := range map[string]struct {
		damage func(d *damaged)
		want   []string // each problem holds one of these, in any order
	}{
		"nothing":     {func(*damaged) {}, nil},
		"no material": {func(d *damaged) { d.remove(name(material, id(d.a), d.ma)) }, []string{"its material"}},
		"no listing":  {func(d *damaged) { d.remove(name(listing, mine, id(d.a))) }, []string{"is not listed under its account"}},
		"no key":      {func(d *damaged) { d.remove(name(key, id(d.b))) }, []string{"material/", "account-key/", "counts 2 keys, and there are 1"}},
		"a key that is named": {func(d *damaged) { d.remove(name(key, id(d.a))) }, []string{
			"material/", "account-key/", "which does not exist", "key-alias/", "is not listed under key", "counts 2 keys, and there are 1"}},
		"no alias":          {func(d *damaged) { d.remove(name(alias, mine, "a")) }, []string{"no such alias names the key", "counts 1 aliases, and 0"}},
		"no mirror":         {func(d *damaged) { d.remove(name(mirror, id(d.a), "a")) }, []string{"is not listed under key"}},
		"a mirror too many": {func(d *damaged) { d.put(name(mirror, id(d.b), "a"), "\x01") }, []string{"no such alias names the key"}},
		"an alias moved": {func(d *damaged) { kms.PointAlias(d.tb, d.r.KMS(), racktest.Account, "a", d.b) }, []string{
			"no such alias names the key", "is not listed under key", "counts 1 aliases, and 0", "counts 0 aliases, and 1"}},
		"an alias to nowhere": {func(d *damaged) { kms.PointAlias(d.tb, d.r.KMS(), racktest.Account, "z", api.KeyID{9}) }, []string{
			"which does not exist", "is not listed under key"}},
		"an alias abroad": {func(d *damaged) { kms.PointAlias(d.tb, d.r.KMS(), racktest.Other, "a", d.a) }, []string{
			"of account 111122223333", "is not listed under key"}},
		"a wrong count":         {func(d *damaged) { kms.SetAliases(d.tb, d.r.KMS(), d.a, 2) }, []string{"counts 2 aliases, and 1"}},
		"listed elsewhere":      {func(d *damaged) { d.put(name(listing, other, id(d.a)), "\x01") }, []string{"the key is of account 111122223333"}},
		"listing of no key":     {func(d *damaged) { d.put(name(listing, mine, unknown), "\x01") }, []string{"there is no such key"}},
		"format of a listing":   {func(d *damaged) { d.put(name(listing, mine, id(d.a)), "\x02") }, []string{"unknown format"}},
		"format of a mirror":    {func(d *damaged) { d.put(name(mirror, id(d.a), "a"), "") }, []string{"unknown format"}},
		"mirror of no key":      {func(d *damaged) { d.put(name(mirror, unknown, "a"), "\x01") }, []string{"there is no such key"}},
		"a key's row":           {func(d *damaged) { d.put(name(key, id(d.b)), "\xa0") }, []string{"key row", "material/", "account-key/", "counts 2 keys, and there are 1"}},
		"a wrong count of keys": {func(d *damaged) { d.put(name(keyCount, mine), "\x00\x00\x00\x00\x00\x00\x00\x03") }, []string{"counts 3 keys, and there are 2"}},
		"a count of no keys":    {func(d *damaged) { d.put(name(keyCount, other), "\x00\x00\x00\x00\x00\x00\x00\x01") }, []string{"counts 1 keys, and there are 0"}},
		"a count's row":         {func(d *damaged) { d.put(name(keyCount, mine), "\x02") }, []string{"is no count"}},
		"an old account":        {func(d *damaged) { d.remove(name(keyCount, mine)) }, nil},
		"an alias's row":        {func(d *damaged) { d.put(name(alias, mine, "a"), "\xa0") }, []string{"alias row", "no such alias names", "counts 1 aliases"}},
		"a material's row":      {func(d *damaged) { d.put(name(material, id(d.a), d.ma), "\x02") }, []string{"is not material of a SYMMETRIC_DEFAULT key"}},
		"other material":        {func(d *damaged) { d.put(name(material, id(d.a), d.ma), "\x01"+strings.Repeat("x", 32)) }, []string{"does not give its id"}},
		"material too many":     {func(d *damaged) { d.put(name(material, id(d.a), d.mb), "\x01"+strings.Repeat("x", 32)) }, []string{"should not have this material"}},
		"a rotated key":         {func(d *damaged) { d.rotate() }, nil},
		"an imported key": {func(d *damaged) {
			d.rotate()
			kms.RemoveMaterial(d.tb, d.r.KMS(), d.a, d.ma)
		}, nil},
		"no past material": {func(d *damaged) {
			d.rotate()
			d.remove(name(material, id(d.a), d.ma))
		}, []string{"its material"}},
		"material that was removed": {func(d *damaged) {
			d.rotate()
			kms.RemoveMaterial(d.tb, d.r.KMS(), d.a, d.ma)
			d.put(name(material, id(d.a), d.ma), "\x01"+strings.Repeat("x", 32))
		}, []string{"should not have this material"}},
		"a key that lacks material": {func(d *damaged) {
			d.rotate()
			kms.RemoveMaterial(d.tb, d.r.KMS(), d.a, d.ma)
			kms.SetState(d.tb, d.r.KMS(), d.a, kmsapi.StateEnabled)
		}, []string{"is Enabled and lacks material"}},
		"no materials": {func(d *damaged) {
			d.rotate()
			d.remove(name(keyMaterials, id(d.a)))
		}, []string{"counts 2 materials, and has no row", "should not have this", "should not have this"}},
		"materials not counted": {func(d *damaged) {
			d.rotate()
			kms.CountMaterials(d.tb, d.r.KMS(), d.a, 3, d.current())
		}, []string{"has 2 materials, and the key counts 3"}},
		"another current material": {func(d *damaged) {
			d.rotate()
			kms.CountMaterials(d.tb, d.r.KMS(), d.a, 2, d.ma)
		}, []string{"is current, and for the key"}},
		"materials of no key":  {func(d *damaged) { d.put(name(keyMaterials, unknown), "\xa0") }, []string{"there is no such key"}},
		"a materials' row":     {func(d *damaged) { d.put(name(keyMaterials, id(d.b)), "\xa2\x00\x02\x01\x80") }, []string{"materials row has format 2"}},
		"a long materials row": {func(d *damaged) { d.put(name(keyMaterials, id(d.b), "x"), "\xa0") }, []string{"rows of this space have other names"}},
		"material of no key":   {func(d *damaged) { d.put(name(material, unknown, d.ma), "\x01"+strings.Repeat("x", 32)) }, []string{"there is no such key"}},
		"tags":                 {func(d *damaged) { d.tag("x") }, nil},
		"no tags": {func(d *damaged) {
			d.tag("x")
			kms.SetTags(d.tb, d.r.KMS(), d.a, nil)
		}, []string{"counts 1 tags, and has 0"}},
		"tags too many": {func(d *damaged) {
			d.tag("x")
			kms.SetTags(d.tb, d.r.KMS(), d.a, map[string]string{"x": "", "y": ""})
		}, []string{"counts 1 tags, and has 2"}},
		"tags not counted": {func(d *damaged) { kms.SetTags(d.tb, d.r.KMS(), d.b, map[string]string{"x": ""}) }, []string{"counts 0 tags, and has 1"}},
		"tags of no key":   {func(d *damaged) { kms.SetTags(d.tb, d.r.KMS(), api.KeyID{9}, map[string]string{"x": ""}) }, []string{"there is no such key"}},
		"format of tags":   {func(d *damaged) { d.put(name(keyTags, id(d.a)), "\xa2\x00\x02\x01\xa1\x61x\x60") }, []string{"tags row has format 2"}},
		"a row of no tags": {func(d *damaged) { d.put(name(keyTags, id(d.a)), "\xa2\x00\x01\x01\xa0") }, []string{"tags row has format 1 and 0 tags"}},
		"a tags' row":      {func(d *damaged) { d.put(name(keyTags, id(d.a)), "\xa2\x00\x01\x01\xa2\x61x\x60\x61x\x60") }, []string{"tags row: "}},
		"a long tags name": {func(d *damaged) { d.put(name(keyTags, id(d.a), "x"), "\xa0") }, []string{"rows of this space have other names"}},
		"a short key id":   {func(d *damaged) { d.put(name(key, "short"), "\xa0") }, []string{"rows of this space have other names"}},
		"a long key name":  {func(d *damaged) { d.put(name(key, id(d.a), "x"), "\xa0") }, []string{"rows of this space have other names"}},
		"a nameless alias": {func(d *damaged) { d.put(name(alias, mine, ""), "\xa0") }, []string{"rows of this space have other names"}},
		"a short listing":  {func(d *damaged) { d.put(name(listing, mine, "x"), "\x01") }, []string{"rows of this space have other names"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := newDamaged(t)
			c.damage(d)
			wantProblems(t, problems(t, d.r), c.want)
		})
	}
}

func newDamaged(t *testing.T) *damaged {
	t.Helper()
	d := &damaged{tb: t, r: racktest.Start(t)}
	for _, k := range []struct {
		id       *api.KeyID
		material *string
	}{{&d.a, &d.ma}, {&d.b, &d.mb}} {
		out, err := client.Do(t.Context(), d.r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		*k.id, *k.material = keyID(t, out.KeyMetadata.Arn), unhex(t, out.KeyMetadata.CurrentKeyMaterialId)
	}
	createAlias(t, d.r, "alias/a", d.a.String())
	return d
}

// wantProblems checks that there is one problem for each text, and no other.
func wantProblems(tb testing.TB, got, want []string) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Errorf("got %d problems, want %d: %q", len(got), len(want), got)
		return
	}
	for _, w := range want {
		if !strings.Contains(strings.Join(got, "\n"), w) {
			tb.Errorf("got %q, want one to say %q", got, w)
		}
	}
}

func unhex(tb testing.TB, digits string) string {
	tb.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}
