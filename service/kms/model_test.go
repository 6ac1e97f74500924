package kms_test

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"pgregory.net/rapid"
)

// world is an account beside what it should hold.
type world struct {
	t       *testing.T
	d       *desk
	who     *identity.Principal
	keys    []string                     // ARNs, in the order of creation
	states  map[string]kmsapi.KeyState   // by ARN
	aliases map[string]string            // ARN of the key by alias name
	texts   map[string]string            // descriptions by ARN
	tags    map[string]map[string]string // by ARN
	blobs   map[string]api.Blob          // one ciphertext of "x" by the ARN of its key
}

// TestKeysAndAliasesBehaveLikeTheirModel plays random operations of one account,
// through the door and over a sealed store, against a few maps.
func TestKeysAndAliasesBehaveLikeTheirModel(t *testing.T) {
	t.Parallel()
	d := newDesk(racktest.Start(t))
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{t: t, d: d, who: rootOf(newAccount()), states: map[string]kmsapi.KeyState{}, aliases: map[string]string{},
			texts: map[string]string{}, tags: map[string]map[string]string{}, blobs: map[string]api.Blob{}}
		rt.Repeat(map[string]func(*rapid.T){
			"create key":   w.createKey,
			"switch":       w.switchKey,
			"create alias": w.createAlias,
			"update alias": w.updateAlias,
			"delete alias": w.deleteAlias,
			"note":         w.note,
			"tag":          w.tag,
			"untag":        w.untag,
			"encrypt":      w.encrypt,
			"re-encrypt":   w.reEncrypt,
			"describe":     w.describe,
			"list":         w.list,
		})
		w.list(rt)
	})
	wantSound(t, d.Rack)
}

// newAccount returns an account that nobody has used: each play begins with nothing.
func newAccount() (a api.AccountID) {
	rand.Read(a[:])
	for i := range a {
		a[i] = '0' + a[i]%10
	}
	return a
}

// unknownARN is the ARN of a key that does not exist.
func (w *world) unknownARN() string {
	return api.Realm{Partition: "aws", Region: "rack-1"}.KeyARN(w.who.Account, api.KeyID{1}, false)
}

func (w *world) anyKey(rt *rapid.T) string {
	return rapid.SampledFrom(append([]string{w.unknownARN()}, w.keys...)).Draw(rt, "key")
}

func anyName(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"alias/a", "alias/b", "alias/ab", "alias/a/b", "alias/" + strings.Repeat("x", 250)}).Draw(rt, "name")
}

// want compares what was answered with what should have been.
func (w *world) want(rt *rapid.T, what string, got error, want api.Kind) {
	if api.KindOf(got) != want {
		rt.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func (w *world) createKey(rt *rapid.T) {
	if len(w.keys) >= 5 {
		rt.Skip("enough keys")
	}
	in := &kmsapi.CreateKeyRequest{Description: anyText(rt), Tags: anyTags(rt, 0)}
	out, err := ask(w.t, w.d, w.who, kmsapi.CreateKey, in)
	w.want(rt, "CreateKey", err, api.KindNone)
	arn := out.KeyMetadata.Arn
	w.keys = append(w.keys, arn)
	w.states[arn], w.texts[arn], w.tags[arn] = kmsapi.StateEnabled, in.Description, map[string]string{}
	w.apply(arn, in.Tags)
}

func (w *world) switchKey(rt *rapid.T) {
	key, to := w.anyKey(rt), rapid.SampledFrom([]kmsapi.KeyState{kmsapi.StateEnabled, kmsapi.StateDisabled}).Draw(rt, "to")
	var err error
	if to == kmsapi.StateEnabled {
		_, err = ask(w.t, w.d, w.who, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(key)})
	} else {
		_, err = ask(w.t, w.d, w.who, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(key)})
	}
	w.want(rt, "switch "+key, err, w.ifKey(key, api.KindNone))
	if err == nil {
		w.states[key] = to
	}
}

func anyText(rt *rapid.T) string { return rapid.SampledFrom([]string{"", "a", "ä"}).Draw(rt, "text") }

// anyTagKeys draws keys of tags, no two alike: so few of them that they meet again,
// and so many that a key has not room for all.
func anyTagKeys(rt *rapid.T, least int) []string {
	return rapid.SliceOfNDistinct(rapid.StringMatching("[a-g][1-9]|A|ü{128}"), least, 30, rapid.ID).Draw(rt, "keys")
}

func anyTags(rt *rapid.T, least int) (all []kmsapi.Tag) {
	for _, key := range anyTagKeys(rt, least) {
		all = append(all, kmsapi.Tag{TagKey: key, TagValue: anyText(rt)})
	}
	return all
}

// apply adds to the tags of the model.
func (w *world) apply(arn string, more []kmsapi.Tag) {
	for _, t := range more {
		w.tags[arn][t.TagKey] = t.TagValue
	}
}

func (w *world) note(rt *rapid.T) {
	key, text := w.anyKey(rt), anyText(rt)
	_, err := ask(w.t, w.d, w.who, kmsapi.UpdateKeyDescription, &kmsapi.UpdateKeyDescriptionRequest{KeyId: ref(key), Description: text})
	w.want(rt, "describe "+key, err, w.ifKey(key, api.KindNone))
	if err == nil {
		w.texts[key] = text
	}
}

func (w *world) tag(rt *rapid.T) {
	key, more := w.anyKey(rt), anyTags(rt, 1)
	after := maps.Clone(w.tags[key])
	for _, t := range more {
		if after != nil {
			after[t.TagKey] = t.TagValue
		}
	}
	want := api.KindNone
	if len(after) > api.MaxTags {
		want = api.KindLimitExceeded
	}
	_, err := ask(w.t, w.d, w.who, kmsapi.TagResource, &kmsapi.TagResourceRequest{KeyId: ref(key), Tags: more})
	w.want(rt, "tag "+key, err, w.ifKey(key, want))
	if err == nil {
		w.apply(key, more)
	}
}

func (w *world) untag(rt *rapid.T) {
	key, names := w.anyKey(rt), anyTagKeys(rt, 1)
	_, err := ask(w.t, w.d, w.who, kmsapi.UntagResource, &kmsapi.UntagResourceRequest{KeyId: ref(key), TagKeys: names})
	w.want(rt, "untag "+key, err, w.ifKey(key, api.KindNone))
	for _, name := range names {
		delete(w.tags[key], name)
	}
}

// ifKey returns kind if there is such a key, else KindNotFound.
func (w *world) ifKey(arn string, kind api.Kind) api.Kind {
	if w.states[arn] == 0 {
		return api.KindNotFound
	}
	return kind
}

func (w *world) createAlias(rt *rapid.T) {
	name, key := anyName(rt), w.anyKey(rt)
	_, err := ask(w.t, w.d, w.who, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: name, TargetKeyId: ref(key)})
	want := api.KindNone
	if w.aliases[name] != "" {
		want = api.KindAlreadyExists
	}
	w.want(rt, "create "+name, err, w.ifKey(key, want))
	if err == nil {
		w.aliases[name] = key
	}
}

func (w *world) updateAlias(rt *rapid.T) {
	name, key := anyName(rt), w.anyKey(rt)
	_, err := ask(w.t, w.d, w.who, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: name, TargetKeyId: ref(key)})
	w.want(rt, "update "+name, err, w.ifKey(key, w.ifKey(w.aliases[name], api.KindNone)))
	if err == nil {
		w.aliases[name] = key
	}
}

func (w *world) deleteAlias(rt *rapid.T) {
	name := anyName(rt)
	_, err := ask(w.t, w.d, w.who, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: name})
	w.want(rt, "delete "+name, err, w.ifKey(w.aliases[name], api.KindNone))
	delete(w.aliases, name)
}

// reference draws one of the four forms, and returns the key it should name.
func (w *world) reference(rt *rapid.T) (reference, arn string) {
	if rapid.Bool().Draw(rt, "by alias") {
		name := anyName(rt)
		if rapid.Bool().Draw(rt, "as ARN") {
			return fmt.Sprintf("arn:aws:kms:rack-1:%s:%s", w.who.Account, name), w.aliases[name]
		}
		return name, w.aliases[name]
	}
	key := w.anyKey(rt)
	if rapid.Bool().Draw(rt, "as ARN") {
		return key, key
	}
	return keyID(w.t, key).String(), key
}

func (w *world) encrypt(rt *rapid.T) {
	reference, key := w.reference(rt)
	out, err := ask(w.t, w.d, w.who, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(reference), Plaintext: []byte("x")})
	want := api.KindNone
	if w.states[key] == kmsapi.StateDisabled {
		want = api.KindDisabled
	}
	w.want(rt, "Encrypt by "+reference, err, w.ifKey(key, want))
	if err != nil {
		return
	}
	if out.KeyId != key {
		rt.Fatalf("Encrypt by %s used %s, want %s", reference, out.KeyId, key)
	}
	w.blobs[key] = out.CiphertextBlob
}

// reEncrypt moves a ciphertext to a key, where Decrypt must find what was in it.
func (w *world) reEncrypt(rt *rapid.T) {
	if len(w.blobs) == 0 {
		rt.Skip("no ciphertext")
	}
	from := rapid.SampledFrom(slices.Sorted(maps.Keys(w.blobs))).Draw(rt, "from")
	reference, to := w.reference(rt)
	out, err := ask(w.t, w.d, w.who, kmsapi.ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: w.blobs[from], DestinationKeyId: ref(reference)})
	want := api.KindNone
	if w.states[from] == kmsapi.StateDisabled || w.states[to] == kmsapi.StateDisabled {
		want = api.KindDisabled
	}
	w.want(rt, "ReEncrypt to "+reference, err, w.ifKey(to, want))
	if err != nil {
		return
	}
	w.blobs[to] = out.CiphertextBlob
	got, err := ask(w.t, w.d, w.who, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: out.CiphertextBlob})
	if err != nil || string(got.Plaintext) != "x" || got.KeyId != to || out.KeyId != to || out.SourceKeyId != from {
		rt.Fatalf("ReEncrypt from %s to %s answers %+v, which decrypts to %+v, %v", from, reference, out, got, err)
	}
}

func (w *world) describe(rt *rapid.T) {
	reference, key := w.reference(rt)
	out, err := ask(w.t, w.d, w.who, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(reference)})
	w.want(rt, "DescribeKey of "+reference, err, w.ifKey(key, api.KindNone))
	if err == nil && (out.KeyMetadata.Arn != key || out.KeyMetadata.KeyState != w.states[key] || out.KeyMetadata.Description != w.texts[key]) {
		rt.Fatalf("DescribeKey of %s tells of %+v, want %s in state %s: %q", reference, out.KeyMetadata, key, w.states[key], w.texts[key])
	}
}

// list compares both lists, in pages of any length.
func (w *world) list(rt *rapid.T) {
	limit := rapid.Int64Range(1, 6).Draw(rt, "limit")
	var got []string
	keys, _ := listKeys(w.t, w.d, w.who, limit)
	for _, k := range keys {
		got = append(got, k.KeyArn)
	}
	if want := slices.Sorted(slices.Values(w.keys)); !slices.Equal(got, want) {
		rt.Fatalf("the keys are %v, want %v", got, want)
	}
	w.listAliases(rt, "", limit)
	for _, key := range w.keys {
		w.listAliases(rt, key, limit)
		w.listTags(rt, key, 7*limit)
	}
}

func (w *world) listAliases(rt *rapid.T, of string, limit int64) {
	want := maps.Clone(w.aliases)
	maps.DeleteFunc(want, func(_, key string) bool { return of != "" && key != of })
	got := map[string]string{}
	for marker := ""; ; {
		out, err := ask(w.t, w.d, w.who, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: ref(of), Limit: limit, Marker: marker})
		w.want(rt, "ListAliases", err, api.KindNone)
		for _, a := range out.Aliases {
			got[a.AliasName] = strings.TrimSuffix(w.unknownARN(), api.KeyID{1}.String()) + a.TargetKeyId
		}
		if marker = out.NextMarker; !out.Truncated {
			break
		}
	}
	if !maps.Equal(got, want) {
		rt.Fatalf("the aliases of %q are %v, want %v", of, got, want)
	}
}

func (w *world) listTags(rt *rapid.T, key string, limit int64) {
	got := map[string]string{}
	for marker := ""; ; {
		out, err := ask(w.t, w.d, w.who, kmsapi.ListResourceTags, &kmsapi.ListResourceTagsRequest{KeyId: ref(key), Limit: limit, Marker: marker})
		w.want(rt, "ListResourceTags", err, api.KindNone)
		for _, t := range out.Tags {
			got[t.TagKey] = t.TagValue
		}
		if marker = out.NextMarker; !out.Truncated {
			break
		}
	}
	if !maps.Equal(got, w.tags[key]) {
		rt.Fatalf("the tags of %s are %v, want %v", key, got, w.tags[key])
	}
}
