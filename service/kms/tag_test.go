package kms_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// tags makes a list of tags from keys and values in turn.
func tags(pairs ...string) (all []kmsapi.Tag) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, kmsapi.Tag{TagKey: pairs[i], TagValue: pairs[i+1]})
	}
	return all
}

// numbered makes n tags whose keys begin with prefix.
func numbered(prefix string, n int) (all []kmsapi.Tag) {
	for i := range n {
		all = append(all, kmsapi.Tag{TagKey: fmt.Sprintf("%s%02d", prefix, i), TagValue: "v"})
	}
	return all
}

func tagResource(tb testing.TB, c *client.Client, key string, all []kmsapi.Tag) error {
	tb.Helper()
	_, err := client.Do(tb.Context(), c, kmsapi.TagResource, &kmsapi.TagResourceRequest{KeyId: ref(key), Tags: all})
	return err
}

func untagResource(tb testing.TB, c *client.Client, key string, names ...string) error {
	tb.Helper()
	_, err := client.Do(tb.Context(), c, kmsapi.UntagResource, &kmsapi.UntagResourceRequest{KeyId: ref(key), TagKeys: names})
	return err
}

func describeAs(tb testing.TB, c *client.Client, key, text string) error {
	tb.Helper()
	_, err := client.Do(tb.Context(), c, kmsapi.UpdateKeyDescription, &kmsapi.UpdateKeyDescriptionRequest{KeyId: ref(key), Description: text})
	return err
}

func createTagged(tb testing.TB, c *client.Client, all []kmsapi.Tag) (arn string, err error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Tags: all})
	if err != nil {
		return "", err
	}
	return out.KeyMetadata.Arn, nil
}

// listTags returns the tags of a key, page by page, and how many pages.
func listTags(tb testing.TB, c *client.Client, key string, limit int64) (all []kmsapi.Tag, pages int) {
	tb.Helper()
	for marker := ""; ; {
		out, err := client.Do(tb.Context(), c, kmsapi.ListResourceTags, &kmsapi.ListResourceTagsRequest{KeyId: ref(key), Limit: limit, Marker: marker})
		if err != nil {
			tb.Fatal(err)
		}
		if out.Truncated != (out.NextMarker != "") || limit > 0 && len(out.Tags) > int(limit) {
			tb.Fatalf("a page of at most %d has %d tags, truncated: %t, marker %q", limit, len(out.Tags), out.Truncated, out.NextMarker)
		}
		all = append(all, out.Tags...)
		pages++
		if marker = out.NextMarker; marker == "" {
			return all, pages
		}
	}
}

func wantTags(tb testing.TB, r *racktest.Rack, key string, want []kmsapi.Tag) {
	tb.Helper()
	if got, _ := listTags(tb, r.Client, key, 0); !slices.Equal(got, want) {
		tb.Errorf("the tags of %s are %v, want %v", key, got, want)
	}
}

// TestTagsComeAndGo: added, overwritten and removed at once, and told in the order
// of their keys' bytes, where case counts.
func TestTagsComeAndGo(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, err := createTagged(t, r.Client, tags("team", "mail", "b", ""))
	if err != nil {
		t.Fatal(err)
	}
	wantTags(t, r, arn, tags("b", "", "team", "mail"))
	for range 2 { // twice is as good as once
		if err := tagResource(t, r.Client, arn, tags("Team", "x", "team", "post")); err != nil {
			t.Error(err)
		}
		wantTags(t, r, arn, tags("Team", "x", "b", "", "team", "post"))
	}
	for _, step := range []struct {
		names []string
		want  []kmsapi.Tag
	}{
		{[]string{"TEAM", "none"}, tags("Team", "x", "b", "", "team", "post")},
		{[]string{"b", "Team", "b"}, tags("team", "post")},
		{[]string{"team"}, nil},
		{[]string{"team"}, nil},
	} {
		if err := untagResource(t, r.Client, keyID(t, arn).String(), step.names...); err != nil {
			t.Errorf("untag %q: %v", step.names, err)
		}
		wantTags(t, r, arn, step.want)
		wantSound(t, r)
	}
	if err := tagResource(t, r.Client, arn, tags("again", "1")); err != nil {
		t.Error(err)
	}
	wantTags(t, r, arn, tags("again", "1"))
}

// TestUpdateKeyDescription: the next DescribeKey tells of it.
func TestUpdateKeyDescription(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	for _, text := range []string{"invoices", "", strings.Repeat("ü", 8192), "für Rechnungen\n"} {
		if err := describeAs(t, r.Client, arn, text); err != nil {
			t.Fatal(err)
		}
		out, err := client.Do(t.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(arn)})
		if err != nil || out.KeyMetadata.Description != text {
			t.Errorf("the description has %d bytes, %v, want %d", len(out.KeyMetadata.Description), err, len(text))
		}
	}
	wantSays(t, describeAs(t, r.Client, arn, strings.Repeat("ü", 8193)), "ValidationException: 1 validation error detected: Value at 'description' failed to satisfy constraint: Member must have length less than or equal to 8192")
}

// TestTagRefusals: what can be wrong with each operation, in the order in which it
// is answered. Nothing of a refused request is done.
func TestTagRefusals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, err := createTagged(t, r.Client, tags("kept", "1"))
	if err != nil {
		t.Fatal(err)
	}
	doomed, foreign := r.CreateKey(), strangersKey(t, r)
	id := keyID(t, arn).String()
	createAlias(t, r, "alias/a", arn)
	if _, err := client.Do(t.Context(), r.Client, kmsapi.ScheduleKeyDeletion, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(doomed), PendingWindowInDays: 7}); err != nil {
		t.Fatal(err)
	}
	const unknown = "00000000-0000-4000-8000-000000000000"
	tag := func(c *client.Client, key string, all []kmsapi.Tag) error { return tagResource(t, c, key, all) }
	untag := func(c *client.Client, key string, names ...string) error { return untagResource(t, c, key, names...) }
	create := func(in kmsapi.CreateKeyRequest) error {
		_, err := client.Do(t.Context(), r.Client, kmsapi.CreateKey, &in)
		return err
	}
	list := func(c *client.Client, key string, limit int64, marker string) error {
		_, err := client.Do(t.Context(), c, kmsapi.ListResourceTags, &kmsapi.ListResourceTagsRequest{KeyId: ref(key), Limit: limit, Marker: marker})
		return err
	}
	long, tooMany := strings.Repeat("ü", 129), numbered("n", 51)
	for name, c := range map[string]struct {
		got  error
		want string
	}{
		"no tags":                          {tag(r.Client, arn, nil), "ValidationException: 1 validation error detected: Value null at 'tags'"},
		"a key of 129":                     {tag(r.Client, arn, tags(long, "")), "ValidationException: 1 validation error detected: Value at 'tags.1.member.tagKey' failed to satisfy constraint: Member must have length less than or equal to 128"},
		"an empty key":                     {tag(r.Client, arn, tags("a", "b", "", "")), "ValidationException: 1 validation error detected: Value null at 'tags.2.member.tagKey'"},
		"a value of 257":                   {tag(r.Client, arn, tags("a", strings.Repeat("ü", 257))), "ValidationException: 1 validation error detected: Value at 'tags.1.member.tagValue' failed to satisfy constraint: Member must have length less than or equal to 256"},
		"long, of an unknown key":          {tag(r.Client, unknown, tags(long, "")), "ValidationException: "},
		"101 tags":                         {tag(r.Client, arn, slices.Repeat(tags("a", ""), 101)), "ValidationException: 1 validation error detected: Value at 'tags' failed to satisfy constraint: Member must have length less than or equal to 100"},
		"twice":                            {tag(r.Client, arn, tags("a", "1", "b", "", "a", "1")), "TagException: Duplicate tag keys: that of tag 3 was given before"},
		"twice among too many":             {tag(r.Client, arn, append(slices.Clone(tooMany), tooMany[0])), "TagException: Duplicate tag keys"},
		"too many":                         {tag(r.Client, arn, tooMany), "TagException: Too many tags: a key has at most 50"},
		"too many, with those it has":      {tag(r.Client, arn, tooMany[:50]), "LimitExceededException: " + arn + " would have 51 tags"},
		"reserved":                         {tag(r.Client, arn, tags("a", "b", "aws:a", "")), "TagException: Tags beginning with aws: are reserved"},
		"reserved, in another case":        {tag(r.Client, arn, tags("aWs:", "")), "TagException: Tags beginning with aws: are reserved"},
		"by alias":                         {tag(r.Client, "alias/a", tags("a", "")), "NotFoundException: Invalid keyId 'alias/a'"},
		"unknown":                          {tag(r.Client, unknown, tags("aws:a", "")), "NotFoundException: Key '"},
		"nonsense":                         {tag(r.Client, "nonsense", tags("a", "")), "NotFoundException: Invalid keyId"},
		"another's":                        {tag(r.Stranger, arn, tags("aws:a", "")), "AccessDeniedException: User: arn:aws:iam::444455556666:root is not authorized to perform: kms:TagResource on resource: " + arn},
		"another's by id":                  {tag(r.Stranger, id, tags("a", "")), "NotFoundException: Key '"},
		"ours at another's":                {tag(r.Client, foreign, tags("a", "")), "AccessDeniedException: "},
		"operator":                         {tag(r.Operator, arn, tags("a", "")), "AccessDeniedException: "},
		"reserved, of a doomed key":        {tag(r.Client, doomed, tags("aws:a", "")), "TagException: "},
		"of a doomed key":                  {tag(r.Client, doomed, tags("a", "")), "KMSInvalidStateException: " + doomed + " is pending deletion."},
		"untag, no names":                  {untag(r.Client, arn), "ValidationException: 1 validation error detected: Value null at 'tagKeys'"},
		"untag, an empty name":             {untag(r.Client, arn, "a", ""), "ValidationException: 1 validation error detected: Value at 'tagKeys' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 128, Member must have length greater than or equal to 1]"},
		"untag, a name of 129":             {untag(r.Client, arn, long), "ValidationException: "},
		"untag, 101 names":                 {untag(r.Client, arn, slices.Repeat([]string{"a"}, 101)...), "ValidationException: "},
		"untag, reserved":                  {untag(r.Client, arn, "kept", "AWS:a"), "TagException: Tags beginning with aws: are reserved"},
		"untag, reserved, unknown":         {untag(r.Client, unknown, "aws:a"), "NotFoundException: Key '"},
		"untag, by alias":                  {untag(r.Client, "alias/a", "kept"), "NotFoundException: Invalid keyId"},
		"untag, another's":                 {untag(r.Stranger, arn, "kept"), "AccessDeniedException: User: arn:aws:iam::444455556666:root is not authorized to perform: kms:UntagResource"},
		"untag, of a doomed key":           {untag(r.Client, doomed, "a"), "KMSInvalidStateException: " + doomed + " is pending deletion."},
		"list, by alias":                   {list(r.Client, "alias/a", 0, ""), "NotFoundException: Invalid keyId"},
		"list, unknown":                    {list(r.Client, unknown, 0, ""), "NotFoundException: Key '"},
		"list, unknown, bad marker":        {list(r.Client, unknown, 0, "x"), "NotFoundException: Key '"},
		"list, another's":                  {list(r.Stranger, arn, 0, ""), "AccessDeniedException: User: arn:aws:iam::444455556666:root is not authorized to perform: kms:ListResourceTags"},
		"list, another's, bad marker":      {list(r.Stranger, arn, 0, "x"), "AccessDeniedException: "},
		"list, none":                       {list(r.Client, arn, -1, ""), "ValidationException: "},
		"list, 51":                         {list(r.Client, arn, 51, ""), "ValidationException: "},
		"list, bad marker":                 {list(r.Client, arn, 50, "x"), "InvalidMarkerException: "},
		"list, of a doomed key":            {list(r.Client, doomed, 1, ""), ""},
		"describe, by alias":               {describeAs(t, r.Client, "alias/a", "x"), "NotFoundException: Invalid keyId"},
		"describe, unknown":                {describeAs(t, r.Client, unknown, "x"), "NotFoundException: Key '"},
		"describe, another's":              {describeAs(t, r.Stranger, arn, "x"), "AccessDeniedException: User: arn:aws:iam::444455556666:root is not authorized to perform: kms:UpdateKeyDescription"},
		"describe, a doomed key":           {describeAs(t, r.Client, doomed, "x"), "KMSInvalidStateException: " + doomed + " is pending deletion."},
		"create, twice":                    {create(kmsapi.CreateKeyRequest{Tags: tags("a", "", "a", "b")}), "TagException: Duplicate tag keys"},
		"create, too many":                 {create(kmsapi.CreateKeyRequest{Tags: tooMany}), "TagException: Too many tags"},
		"create, reserved":                 {create(kmsapi.CreateKeyRequest{Tags: tags("aws:a", "")}), "TagException: Tags beginning with aws: are reserved"},
		"create, reserved, and SM2":        {create(kmsapi.CreateKeyRequest{Tags: tags("aws:a", ""), KeySpec: 20}), "UnsupportedOperationException: "},
		"create, reserved, and a policy":   {create(kmsapi.CreateKeyRequest{Tags: tags("aws:a", ""), Policy: "{}"}), "TagException: "},
		"create, tags, and a wrong policy": {create(kmsapi.CreateKeyRequest{Tags: tags("a", ""), Policy: "{}"}), "MalformedPolicyDocumentException: "},
		"create, begins alike":             {create(kmsapi.CreateKeyRequest{Tags: tags("aws", "aws:", "awsome", "")}), ""},
	} {
		if c.want == "" {
			wantKind(t, c.got, api.KindNone)
		} else if c.got == nil || !strings.HasPrefix(c.got.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, c.got, c.want)
		}
	}
	wantTags(t, r, arn, tags("kept", "1"))
	wantTags(t, r, doomed, nil)
	wantSound(t, r)
}

// TestTheLongestTags: as many and as long as can be, beside the longest description,
// go into the store and the record, and come back; the values of all can be changed.
func TestTheLongestTags(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	longest := func(value string) (all []kmsapi.Tag) {
		for i := range api.MaxTags {
			all = append(all, kmsapi.Tag{TagKey: fmt.Sprintf("%02d", i) + strings.Repeat("🔑", 126), TagValue: strings.Repeat(value, 256)})
		}
		return all
	}
	out, err := client.Do(t.Context(), r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Description: strings.Repeat("🔑", 8192), Tags: longest("🔑")})
	if err != nil {
		t.Fatal(err)
	}
	arn := out.KeyMetadata.Arn
	wantTags(t, r, arn, longest("🔑"))
	if err := tagResource(t, r.Client, arn, longest("🔒")); err != nil {
		t.Error(err)
	}
	wantTags(t, r, arn, longest("🔒"))
	wantKind(t, tagResource(t, r.Client, arn, tags("one", "more")), api.KindLimitExceeded)
	if all, pages := listTags(t, r.Client, arn, 1); pages != api.MaxTags || !slices.Equal(all, longest("🔒")) {
		t.Errorf("%d tags on %d pages", len(all), pages)
	}
	createAlias(t, r, "alias/a", arn)
	wantSound(t, r)
	r.Restart(nil)
	wantTags(t, r, arn, longest("🔒"))
}

// TestTagsOfOneKeyAtOnce: of many that tag one key at the same time, all those are
// done for which there is room.
func TestTagsOfOneKeyAtOnce(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	all := numbered("n", api.MaxTags+10)
	errs := make(chan error)
	for i := range all {
		go func() { errs <- tagResource(t, r.Client, arn, all[i:i+1]) }()
	}
	refused := 0
	for range all {
		if err := <-errs; err != nil {
			wantSays(t, err, "LimitExceededException: "+arn+" would have 51 tags")
			refused++
		}
	}
	got, _ := listTags(t, r.Client, arn, 0)
	if refused != 10 || len(got) != api.MaxTags {
		t.Errorf("%d were refused and the key has %d tags, want 10 and %d", refused, len(got), api.MaxTags)
	}
	wantSound(t, r)
	for i := range got {
		go func() { errs <- untagResource(t, r.Client, arn, got[i].TagKey) }()
	}
	for range got {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	wantTags(t, r, arn, nil)
	wantSound(t, r)
}

// TestPagesOfTags: each tag once, whatever the length of a page, and markers of this
// list alone.
func TestPagesOfTags(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	want := numbered("n", 7)
	arn, err := createTagged(t, r.Client, want)
	if err != nil {
		t.Fatal(err)
	}
	other, err := createTagged(t, r.Client, want)
	if err != nil {
		t.Fatal(err)
	}
	for limit, wantPages := range map[int64]int{0: 1, 1: 7, 2: 4, 3: 3, 6: 2, 7: 1, 8: 1, 50: 1} {
		if got, pages := listTags(t, r.Client, arn, limit); !slices.Equal(got, want) || pages != wantPages {
			t.Errorf("limit %d: got %v on %d pages, want %v on %d", limit, got, pages, want, wantPages)
		}
	}
	page := func(key, marker string) (*kmsapi.ListResourceTagsResponse, error) {
		return client.Do(t.Context(), r.Client, kmsapi.ListResourceTags, &kmsapi.ListResourceTagsRequest{KeyId: ref(key), Limit: 2, Marker: marker})
	}
	first, err := page(arn, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = page(other, first.NextMarker)
	wantKind(t, err, api.KindInvalidMarker)
	_, err = client.Do(t.Context(), r.Client, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: ref(arn), Marker: first.NextMarker})
	wantKind(t, err, api.KindInvalidMarker)
	raw, err := base64.RawURLEncoding.DecodeString(first.NextMarker)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		forged := slices.Clone(raw)
		forged[i] ^= 1
		_, err := page(arn, base64.RawURLEncoding.EncodeToString(forged))
		wantKind(t, err, api.KindInvalidMarker)
	}
	if err := untagResource(t, r.Client, arn, first.Tags[1].TagKey); err != nil {
		t.Fatal(err)
	}
	if second, err := page(arn, first.NextMarker); err != nil || !slices.Equal(second.Tags, want[2:4]) {
		t.Errorf("behind a tag that is gone: %+v, %v, want %v", second, err, want[2:4])
	}
}

// TestNotesSurviveARestart: descriptions and tags, from a store on disk.
func TestNotesSurviveARestart(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	arn, err := createTagged(t, r.Client, tags("a", "1", "b", "2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{tagResource(t, r.Client, arn, tags("a", "3", "c", "")), untagResource(t, r.Client, arn, "b"), describeAs(t, r.Client, arn, "x")} {
		if err != nil {
			t.Error(err)
		}
	}
	r.Restart(nil)
	wantSound(t, r)
	wantTags(t, r, arn, tags("a", "3", "c", ""))
	out, err := client.Do(t.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(arn)})
	if err != nil || out.KeyMetadata.Description != "x" {
		t.Errorf("got %+v, %v", out, err)
	}
}

// TestAKeyWithDamagedTagsIsNotUsed: what a policy says of its tags could not be
// decided; and it is not told to be no key.
func TestAKeyWithDamagedTagsIsNotUsed(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for name, damage := range map[string]map[string]string{"none": nil, "too few": {"a": "1"}, "too many": {"a": "1", "b": "2", "c": "3"}} {
		arn, err := createTagged(t, r.Client, tags("a", "1", "b", "2"))
		if err != nil {
			t.Fatal(err)
		}
		kms.SetTags(t, r.KMS(), keyID(t, arn), damage)
		_, err = encryptedBy(t, r.Client, arn)
		wantKind(t, err, api.KindInternal)
		wantKind(t, tagResource(t, r.Client, arn, tags("a", "1")), api.KindInternal)
		kms.SetTags(t, r.KMS(), keyID(t, arn), map[string]string{"a": "1", "b": "2"})
		if _, err := encryptedBy(t, r.Client, arn); err != nil {
			t.Errorf("%s, put right: %v", name, err)
		}
	}
}
