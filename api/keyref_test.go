package api_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/fuzz"
)

const (
	uuid    = "1234abcd-12ab-34cd-56ef-1234567890ab"
	mrk     = "mrk-1234abcd12ab34cd56ef1234567890ab"
	account = "111122223333"
	arn     = "arn:aws:kms:rack-1:" + account + ":"
)

var realm = api.Realm{Partition: "aws", Region: "rack-1"}

func TestParseKeyRef(t *testing.T) {
	t.Parallel()
	long := "alias/" + strings.Repeat("a", api.MaxAliasName-len("alias/"))
	for _, c := range []struct {
		name, text string
		form       api.RefForm
	}{
		{"absent", "", api.RefAbsent},
		{"key id", uuid, api.RefKeyID},
		{"multi-Region key id", mrk, api.RefKeyID},
		{"key ARN", arn + "key/" + uuid, api.RefKeyARN},
		{"multi-Region key ARN", arn + "key/" + mrk, api.RefKeyARN},
		{"alias", "alias/my_Key-1:x/y", api.RefAlias},
		{"alias of AWS's own", "alias/aws/ebs", api.RefAlias},
		{"longest alias", long, api.RefAlias},
		{"alias ARN", arn + "alias/my-key", api.RefAliasARN},
		{"ARN of a longest alias", arn + long, api.RefAliasARN},

		{"upper-case digits", strings.ToUpper(uuid), api.RefInvalid},
		{"one digit less", uuid[1:], api.RefInvalid},
		{"one digit more", uuid + "0", api.RefInvalid},
		{"no hyphens", strings.ReplaceAll(uuid, "-", ""), api.RefInvalid},
		{"hyphen in another place", "1234abc-d12ab-34cd-56ef-1234567890ab", api.RefInvalid},
		{"letter that is no digit", "g" + uuid[1:], api.RefInvalid},
		{"space before", " " + uuid, api.RefInvalid},
		{"newline behind", uuid + "\n", api.RefInvalid},
		{"NUL for a digit", uuid[:35] + "\x00", api.RefInvalid},
		{"mrk- in capitals", "MRK-" + mrk[4:], api.RefInvalid},
		{"mrk- and upper-case digits", "mrk-" + strings.ToUpper(mrk[4:]), api.RefInvalid},
		{"mrk- and a UUID", "mrk-" + uuid, api.RefInvalid},
		{"mrk- and one digit less", mrk[:35], api.RefInvalid},
		{"mrk- and hyphens", "mrk-1234abcd-12ab-34cd-56ef-12345678", api.RefInvalid},
		{"alias without a name", "alias/", api.RefInvalid},
		{"alias in capitals", "Alias/a", api.RefInvalid},
		{"alias one character too long", long + "a", api.RefInvalid},
		{"alias with a space", "alias/a b", api.RefInvalid},
		{"alias with a letter outside ASCII", "alias/ä", api.RefInvalid},
		{"alias with a star", "alias/*", api.RefInvalid},
		{"alias with a point", "alias/a.b", api.RefInvalid},
		{"ARN of nothing", arn, api.RefBadARN},
		{"ARN cut off", "arn:aws:kms:rack-1:" + account, api.RefBadARN},
		{"ARN of no partition", "arn::kms:rack-1:" + account + ":key/" + uuid, api.RefBadARN},
		{"ARN of no region", "arn:aws:kms::" + account + ":key/" + uuid, api.RefBadARN},
		{"ARN of no account", "arn:aws:kms:rack-1::key/" + uuid, api.RefBadARN},
		{"ARN of another service", "arn:aws:s3:rack-1:" + account + ":key/" + uuid, api.RefBadARN},
		{"ARN of a short account", "arn:aws:kms:rack-1:11112222333:key/" + uuid, api.RefBadARN},
		{"ARN of an account in letters", "arn:aws:kms:rack-1:11112222333x:key/" + uuid, api.RefBadARN},
		{"ARN of a grant", arn + "grant/" + uuid, api.RefBadARN},
		{"ARN with a colon before the id", arn + "key:" + uuid, api.RefBadARN},
		{"ARN of a bad key id", arn + "key/" + uuid[1:], api.RefInvalid},
		{"ARN of a bad mrk", arn + "key/mrk-" + strings.Repeat("0", 31) + "g", api.RefInvalid},
		{"ARN of a bad alias", arn + "alias/", api.RefBadARN},
		{"ARN with something behind it", arn + "key/" + uuid + "/x", api.RefInvalid},
		{"ARN in capitals", "ARN" + arn[3:] + "key/" + uuid, api.RefInvalid},
		{"any text", "key", api.RefInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := api.ParseKeyRef([]byte(c.text))
			if r.Form != c.form {
				t.Errorf("%q has form %d, want %d", c.text, r.Form, c.form)
			}
			if r.String() != c.text {
				t.Errorf("got %q, want it as written: %q", r, c.text)
			}
			checkParts(t, r)
		})
	}
}

// checkParts checks that a reference has exactly the parts of its form, and
// that they make up its text again.
func checkParts(t *testing.T, r api.KeyRef) {
	t.Helper()
	var again string
	in := api.Realm{Partition: string(r.Partition), Region: string(r.Region)}
	switch r.Form {
	case api.RefAbsent:
	case api.RefInvalid, api.RefBadARN:
		again = r.String()
		if r.ID != (api.KeyID{}) || r.Multi || r.Alias != nil {
			t.Errorf("%q is invalid and has parts: %+v", r, r)
		}
	case api.RefKeyID:
		again = string(r.ID.AppendText(nil, r.Multi))
	case api.RefKeyARN:
		again = in.KeyARN(r.Account, r.ID, r.Multi)
	case api.RefAlias:
		again = string(r.Alias)
	case api.RefAliasARN:
		again = strings.TrimSuffix(in.KeyARN(r.Account, r.ID, false), "key/"+r.ID.String()) + string(r.Alias)
	}
	if again != r.String() {
		t.Errorf("the parts of %q make %q", r, again)
	}
	if arn := r.Form == api.RefKeyARN || r.Form == api.RefAliasARN; arn != (r.Account != api.AccountID{}) {
		t.Errorf("%q has account %q", r, r.Account)
	}
}

func TestParseRandomKeyRef(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	forms := map[api.RefForm]int{}
	for range 2000 {
		r := fuzz.KeyRef(rng)
		checkParts(t, r)
		forms[r.Form]++
	}
	if len(forms) != 5 {
		t.Errorf("the generator made only these forms: %v", forms)
	}
}

func TestKeyRefIn(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		uuid: true, "alias/a": true, arn + "key/" + uuid: true, arn + "alias/a": true,
		"arn:aws-cn:kms:rack-1:" + account + ":alias/a":  false,
		"arn:aws:kms:rack-2:" + account + ":key/" + uuid: false,
	} {
		if r := api.ParseKeyRef([]byte(text)); r.In(realm) != want {
			t.Errorf("%s: In = %v", text, !want)
		}
	}
}

func TestRealm(t *testing.T) {
	t.Parallel()
	a, err := api.ParseAccountID(account)
	if err != nil {
		t.Fatal(err)
	}
	r := api.ParseKeyRef([]byte(uuid))
	if got, want := realm.KeyARN(a, r.ID, false), arn+"key/"+uuid; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := realm.RootARN(a), "arn:aws:iam::"+account+":root"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseAccountID(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"000000000000", account, "999999999999"} {
		if a, err := api.ParseAccountID(text); err != nil || a.String() != text {
			t.Errorf("%s: got %s, %v", text, a, err)
		}
	}
	for _, text := range []string{"", "11112222333", "1111222233334", "11112222333a", "1111 2222 33", "-11112222333", "١١١١١١", "11112222333\x00"} {
		if a, err := api.ParseAccountID([]byte(text)); err == nil || a != (api.AccountID{}) {
			t.Errorf("%q was read as %q, %v", text, a, err)
		}
	}
	if none := (api.AccountID{}).String(); none != "" {
		t.Errorf("no account prints as %q", none)
	}
}

func TestKeyIDText(t *testing.T) {
	t.Parallel()
	id := api.ParseKeyRef([]byte(mrk)).ID
	if got := id.String(); got != uuid {
		t.Errorf("got %s, want %s", got, uuid)
	}
	if got := string(id.AppendText([]byte("x/"), true)); got != "x/"+mrk {
		t.Errorf("got %s, want x/%s", got, mrk)
	}
	if got := api.EventID(id).String(); got != uuid {
		t.Errorf("event: got %s, want %s", got, uuid)
	}
}
