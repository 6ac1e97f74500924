package kms_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

func createAlias(tb testing.TB, r *racktest.Rack, name, key string) {
	tb.Helper()
	if _, err := client.Do(tb.Context(), r.Client, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: name, TargetKeyId: ref(key)}); err != nil {
		tb.Fatal(err)
	}
}

func updateAlias(tb testing.TB, r *racktest.Rack, name, key string) {
	tb.Helper()
	if _, err := client.Do(tb.Context(), r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: name, TargetKeyId: ref(key)}); err != nil {
		tb.Fatal(err)
	}
}

// encryptedBy returns the ARN of the key that Encrypt uses for a reference.
func encryptedBy(tb testing.TB, c *client.Client, key string) (arn string, err error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(key), Plaintext: []byte("x")})
	if err != nil {
		return "", err
	}
	return out.KeyId, nil
}

// TestAnAliasNamesItsKeyAtOnce: creation, change and deletion act on the next
// request, by name and by ARN, of Encrypt, Decrypt and DescribeKey.
func TestAnAliasNamesItsKeyAtOnce(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	const name, aliasARN = "alias/invoices", "arn:aws:kms:rack-1:111122223333:alias/invoices"
	first, second := r.CreateKey(), r.CreateKey()
	createAlias(t, r, name, first)
	for _, want := range []string{first, second, first} {
		for _, by := range []string{name, aliasARN} {
			if got, err := encryptedBy(t, r.Client, by); err != nil || got != want {
				t.Errorf("Encrypt by %s used %s, %v, want %s", by, got, err, want)
			}
			d, err := client.Do(t.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(by)})
			if err != nil || d.KeyMetadata.Arn != want {
				t.Errorf("DescribeKey of %s told of %s, %v, want %s", by, d.KeyMetadata.Arn, err, want)
			}
			o, err := client.Do(t.Context(), r.Client, kmsapi.Decrypt, &kmsapi.DecryptRequest{KeyId: ref(by), CiphertextBlob: encrypt(t, r, want, []byte("x"))})
			if err != nil || o.KeyId != want {
				t.Errorf("Decrypt by %s: %+v, %v", by, o, err)
			}
		}
		next := map[string]string{first: second, second: first}[want]
		updateAlias(t, r, name, next)
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: name}); err != nil {
		t.Fatal(err)
	}
	for _, by := range []string{name, aliasARN} {
		_, err := encryptedBy(t, r.Client, by)
		wantSays(t, err, "NotFoundException: Alias "+aliasARN+" is not found.")
	}
}

// wantSays checks the kind and text of an error, from the beginning on.
func wantSays(tb testing.TB, err error, want string) {
	tb.Helper()
	if err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
		tb.Errorf("got %v, want %s", err, want)
	}
}

// TestAliasRefusals: what can be wrong with each operation, in the order in which
// it is answered: what is malformed, what the caller may not, what does not exist,
// what does not fit. Each is one record.
func TestAliasRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, foreign := r.CreateKey(), strangersKey(t, r)
	id := keyID(t, arn).String()
	createAlias(t, r, "alias/taken", arn)
	const mine, unknown = "arn:aws:kms:rack-1:111122223333:", "00000000-0000-4000-8000-000000000000"
	denied := func(op, on string) string {
		return "AccessDeniedException: User: arn:aws:iam::444455556666:root is not authorized to perform: kms:" + op + " on resource: " + on
	}
	create := func(c *client.Client, name, key string) func() error {
		return func() error {
			_, err := client.Do(t.Context(), c, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: name, TargetKeyId: ref(key)})
			return err
		}
	}
	update := func(c *client.Client, name, key string) func() error {
		return func() error {
			_, err := client.Do(t.Context(), c, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: name, TargetKeyId: ref(key)})
			return err
		}
	}
	remove := func(c *client.Client, name string) func() error {
		return func() error {
			_, err := client.Do(t.Context(), c, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: name})
			return err
		}
	}
	enable := func(c *client.Client, key string) func() error {
		return func() error {
			_, err := client.Do(t.Context(), c, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(key)})
			return err
		}
	}
	disable := func(c *client.Client, key string) func() error {
		return func() error {
			_, err := client.Do(t.Context(), c, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(key)})
			return err
		}
	}
	describe := func(c *client.Client, key string, tokens ...string) func() error {
		return func() error {
			_, err := client.Do(t.Context(), c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(key), GrantTokens: tokens})
			return err
		}
	}
	aliases := func(c *client.Client, key string) func() error {
		return func() error {
			_, err := client.Do(t.Context(), c, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: ref(key)})
			return err
		}
	}
	noPrefix := `ValidationException: Alias must start with the prefix "alias/" and a name behind it`
	for name, c := range map[string]struct {
		try  func() error
		want string
	}{
		"create, no prefix":                 {create(r.Client, "invoices", arn), noPrefix},
		"create, nothing but the prefix":    {create(r.Client, "alias/", arn), noPrefix},
		"create, upper-case prefix":         {create(r.Client, "Alias/a", arn), noPrefix},
		"create, as an ARN":                 {create(r.Client, mine+"alias/a", arn), noPrefix},
		"create, a space":                   {create(r.Client, "alias/a b", arn), "ValidationException: 1 validation error detected: Value 'alias/a b' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"},
		"create, a dot":                     {create(r.Client, "alias/a.b", arn), "ValidationException: 1 validation error"},
		"create, not ASCII":                 {create(r.Client, "alias/ä", arn), "ValidationException: 1 validation error"},
		"create, a colon":                   {create(r.Client, "alias/a:b", arn), "ValidationException: alias/a:b contains invalid characters for an alias"},
		"create, 257 characters":            {create(r.Client, "alias/"+strings.Repeat("a", 251), arn), "ValidationException: 1 validation error detected: Value at 'aliasName' failed to satisfy constraint: Member must have length less than or equal to 256"},
		"create, no name":                   {create(r.Client, "", arn), "ValidationException: 1 validation error detected: Value null at 'aliasName'"},
		"create, no key":                    {create(r.Client, "alias/a", ""), "ValidationException: 1 validation error detected: Value null at 'targetKeyId'"},
		"create, both wrong":                {create(r.Client, "a b", "alias/taken"), "ValidationException: 1 validation error detected: Value 'a b' at 'aliasName'"},
		"create, reserved":                  {create(r.Client, "alias/aws/s3", arn), "NotAuthorizedException: Alias names that begin with alias/aws/ are reserved"},
		"create, reserved, unknown key":     {create(r.Client, "alias/aws/s3", unknown), "NotAuthorizedException: "},
		"create, reserved, begins alike":    {create(r.Client, "alias/awsome", arn), ""},
		"create, for an alias":              {create(r.Client, "alias/a", "alias/taken"), "ValidationException: Aliases must refer to keys. Not aliases"},
		"create, for an alias's ARN":        {create(r.Client, "alias/a", mine+"alias/taken"), "ValidationException: Aliases must refer to keys. Not aliases"},
		"create, for itself":                {create(r.Client, "alias/a", "alias/a"), "ValidationException: Aliases must refer to keys. Not aliases"},
		"create, unknown key":               {create(r.Client, "alias/a", unknown), "NotFoundException: Key '" + mine + "key/" + unknown + "' does not exist"},
		"create, taken, unknown key":        {create(r.Client, "alias/taken", unknown), "NotFoundException: Key '"},
		"create, no ARN of a key":           {create(r.Client, "alias/a", strings.Replace(arn, ":kms:", ":s3:", 1)), "InvalidArnException: Invalid arn "},
		"enable, no ARN of a key":           {enable(r.Client, "arn:aws:kms:rack-1:111122223333:grant/x"), "InvalidArnException: Invalid arn "},
		"describe, no ARN of a key":         {describe(r.Stranger, "arn:aws:kms:rack-1:1111:key/"+id), "InvalidArnException: Invalid arn "},
		"aliases, no ARN of a key":          {aliases(r.Client, "arn:"), "InvalidArnException: Invalid arn "},
		"describe, ARN of no key id":        {describe(r.Client, mine+"key/nonsense"), "NotFoundException: Invalid keyId '"},
		"create, no key id":                 {create(r.Client, "alias/a", "nonsense"), "NotFoundException: Invalid keyId 'nonsense'"},
		"create, another's key by ARN":      {create(r.Stranger, "alias/a", arn), denied("CreateAlias", arn)},
		"create, another's key by id":       {create(r.Stranger, "alias/a", id), "NotFoundException: Key 'arn:aws:kms:rack-1:444455556666:key/" + id + "' does not exist"},
		"create, ours for another's":        {create(r.Client, "alias/a", foreign), "AccessDeniedException: "},
		"create, another region's key":      {create(r.Client, "alias/a", strings.Replace(arn, "rack-1", "rack-2", 1)), "NotFoundException: Invalid arn "},
		"create, taken":                     {create(r.Client, "alias/taken", arn), "AlreadyExistsException: An alias with the name " + mine + "alias/taken already exists"},
		"create, another case":              {create(r.Client, "alias/Taken", arn), ""},
		"create, taken elsewhere":           {create(r.Stranger, "alias/taken", foreign), ""},
		"create, operator":                  {create(r.Operator, "alias/a", arn), "AccessDeniedException: "},
		"update, unknown":                   {update(r.Client, "alias/none", arn), "NotFoundException: Alias " + mine + "alias/none is not found."},
		"update, unknown, unknown key":      {update(r.Client, "alias/none", unknown), "NotFoundException: Key '"},
		"update, to an alias":               {update(r.Client, "alias/taken", "alias/taken"), "ValidationException: Aliases must refer to keys. Not aliases"},
		"update, reserved":                  {update(r.Client, "alias/aws/s3", arn), "NotAuthorizedException: "},
		"update, no prefix":                 {update(r.Client, "taken", arn), noPrefix},
		"update, to another's key":          {update(r.Client, "alias/taken", foreign), "AccessDeniedException: "},
		"delete, unknown":                   {remove(r.Client, "alias/none"), "NotFoundException: Alias " + mine + "alias/none is not found."},
		"delete, reserved":                  {remove(r.Client, "alias/aws/s3"), "NotAuthorizedException: "},
		"delete, another's":                 {remove(r.Stranger, "alias/invoices"), "NotFoundException: Alias arn:aws:kms:rack-1:444455556666:alias/invoices is not found."},
		"delete, by ARN":                    {remove(r.Client, mine+"alias/taken"), noPrefix},
		"enable, by alias":                  {enable(r.Client, "alias/taken"), "NotFoundException: Invalid keyId 'alias/taken': this operation takes a key id or a key ARN"},
		"enable, by alias ARN":              {enable(r.Client, mine+"alias/taken"), "NotFoundException: Invalid keyId '" + mine + "alias/taken'"},
		"enable, unknown":                   {enable(r.Client, unknown), "NotFoundException: Key '"},
		"enable, nonsense":                  {enable(r.Client, "nonsense"), "NotFoundException: Invalid keyId"},
		"enable, another's":                 {enable(r.Stranger, arn), denied("EnableKey", arn)},
		"enable, another's by id":           {enable(r.Stranger, id), "NotFoundException: Key '"},
		"disable, by alias":                 {disable(r.Client, "alias/taken"), "NotFoundException: Invalid keyId"},
		"disable, another's":                {disable(r.Stranger, arn), denied("DisableKey", arn)},
		"disable, unknown":                  {disable(r.Client, unknown), "NotFoundException: Key '"},
		"describe, unknown":                 {describe(r.Client, unknown), "NotFoundException: Key '"},
		"describe, unknown alias":           {describe(r.Client, "alias/none"), "NotFoundException: Alias " + mine + "alias/none is not found."},
		"describe, an AWS managed key":      {describe(r.Client, "alias/aws/s3"), "NotFoundException: Alias " + mine + "alias/aws/s3 is not found."},
		"describe, another region's alias":  {describe(r.Client, strings.Replace(mine, "rack-1", "rack-2", 1)+"alias/taken"), "NotFoundException: Invalid arn "},
		"describe, another partition":       {describe(r.Client, strings.Replace(arn, "arn:aws:", "arn:aws-cn:", 1)), "NotFoundException: Invalid arn "},
		"describe, grant token":             {describe(r.Client, arn, "t"), "InvalidGrantTokenException: "},
		"describe, another's":               {describe(r.Stranger, arn), denied("DescribeKey", arn)},
		"describe, another's alias":         {describe(r.Stranger, mine+"alias/taken"), denied("DescribeKey", mine+"alias/taken")},
		"describe, another's unknown alias": {describe(r.Stranger, mine+"alias/none"), denied("DescribeKey", mine+"alias/none")},
		"describe, another's by alias name": {describe(r.Stranger, "alias/Taken"), "NotFoundException: Alias arn:aws:kms:rack-1:444455556666:alias/Taken is not found."},
		"aliases of an unknown key":         {aliases(r.Client, unknown), "NotFoundException: Key '"},
		"aliases of an alias":               {aliases(r.Client, "alias/taken"), "NotFoundException: Invalid keyId"},
		"aliases of another's key":          {aliases(r.Stranger, arn), denied("ListAliases", arn)},
		"aliases, operator":                 {aliases(r.Operator, arn), "AccessDeniedException: "},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			before := len(r.Records())
			err := c.try()
			if c.want != "" {
				wantSays(t, err, c.want)
			} else if err != nil {
				t.Errorf("got %v, want success", err)
			}
			if records := r.Records()[before:]; len(records) != 1 || records[0].Error != uint16(api.KindOf(err)) {
				t.Errorf("got records %+v, want one of %v", records, err)
			}
		})
	}
}

// createKey creates a key of a spec and a usage in the tests' own account, and returns its ARN.
func createKey(tb testing.TB, r *racktest.Rack, spec kmsapi.KeySpec, usage kmsapi.KeyUsage) string {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{KeySpec: spec, KeyUsage: usage})
	if err != nil {
		tb.Fatal(err)
	}
	return out.KeyMetadata.Arn
}

// strangersKey creates a key in the other account.
func strangersKey(tb testing.TB, r *racktest.Rack) string {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Stranger, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	if err != nil {
		tb.Fatal(err)
	}
	return out.KeyMetadata.Arn
}

// TestAnAliasStaysWithItsKind: programs that use an alias must not meet a key that
// they cannot use in the same way.
func TestAnAliasStaysWithItsKind(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	symmetric := r.CreateKey()
	hmac256, hmac512 := createKey(t, r, kmsapi.KeySpecHMAC256, kmsapi.UsageGenerateVerifyMac), createKey(t, r, kmsapi.KeySpecHMAC512, kmsapi.UsageGenerateVerifyMac)
	p256, ed25519 := createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies), createKey(t, r, kmsapi.KeySpecECCNISTEdwards25519, signsAndVerifies)
	for _, c := range []struct {
		keys [2]string
		fits bool
	}{
		{[2]string{symmetric, r.CreateKey()}, true},
		{[2]string{hmac256, hmac512}, true},
		{[2]string{hmac512, symmetric}, false},
		{[2]string{symmetric, hmac512}, false},
		{[2]string{p256, ed25519}, true},
		{[2]string{hmac512, p256}, false},
		{[2]string{p256, symmetric}, false},
	} {
		keys := c.keys
		name := "alias/" + keyID(t, keys[0]).String() + keyID(t, keys[1]).String()
		createAlias(t, r, name, keys[0])
		_, err := client.Do(t.Context(), r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: name, TargetKeyId: ref(keys[1])})
		if c.fits && err != nil {
			t.Errorf("%v: %v", keys, err)
		} else if !c.fits {
			wantKind(t, err, api.KindValidation)
		}
	}
}

// TestAliasesOfAKeyAreLimited: also where many ask at once, and an alias that
// leaves makes room for another.
func TestAliasesOfAKeyAreLimited(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	full, other := r.CreateKey(), r.CreateKey()
	createAlias(t, r, "alias/other", other)
	errs := make(chan error)
	for i := range api.MaxAliases + 10 {
		go func() {
			_, err := client.Do(t.Context(), r.Client, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: fmt.Sprint("alias/", i), TargetKeyId: ref(full)})
			errs <- err
		}()
	}
	refused := 0
	for range api.MaxAliases + 10 {
		if err := <-errs; err != nil {
			wantSays(t, err, "LimitExceededException: "+full+" has 50 aliases")
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d of %d aliases were refused, want 10", refused, api.MaxAliases+10)
	}
	move := func(name, to string) error {
		_, err := client.Do(t.Context(), r.Client, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: name, TargetKeyId: ref(to)})
		return err
	}
	wantKind(t, move("alias/other", full), api.KindLimitExceeded)
	var one string
	for _, a := range listAliases(t, r.Client, full, 100) {
		one = a.AliasName
	}
	for _, step := range [][2]string{{one, full}, {one, other}, {"alias/other", full}} { // to where it is; away; into the room that is left
		if err := move(step[0], step[1]); err != nil {
			t.Errorf("%s to %s: %v", step[0], step[1], err)
		}
	}
	wantKind(t, move(one, full), api.KindLimitExceeded)
	if n := len(listAliases(t, r.Client, full, 100)); n != api.MaxAliases {
		t.Errorf("the key has %d aliases, want %d", n, api.MaxAliases)
	}
	wantSound(t, r)
}

// listAliases returns the aliases of a key, or all, page by page.
func listAliases(tb testing.TB, c *client.Client, key string, limit int64) (all []kmsapi.AliasListEntry) {
	tb.Helper()
	for marker := ""; ; {
		out, err := client.Do(tb.Context(), c, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: ref(key), Limit: limit, Marker: marker})
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, out.Aliases...)
		if marker = out.NextMarker; !out.Truncated {
			return all
		}
	}
}

// TestAliasEntries: what a list says of an alias, and its times.
func TestAliasEntries(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clk, advance := clock.NewTest(start)
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	first, second := r.CreateKey(), r.CreateKey()
	createAlias(t, r, "alias/a", first)
	advance(time.Hour)
	updateAlias(t, r, "alias/a", second)
	want := []kmsapi.AliasListEntry{{
		AliasName: "alias/a", AliasArn: "arn:aws:kms:rack-1:111122223333:alias/a", TargetKeyId: keyID(t, second).String(),
		CreationDate: api.TimeOf(start), LastUpdatedDate: api.TimeOf(start.Add(time.Hour)),
	}}
	for key, want := range map[string][]kmsapi.AliasListEntry{"": want, first: nil, second: want} {
		if got := listAliases(t, r.Client, key, 0); !slices.Equal(got, want) {
			t.Errorf("aliases of %q: got %+v, want %+v", key, got, want)
		}
	}
	if got := listAliases(t, r.Stranger, "", 0); got != nil {
		t.Errorf("a stranger sees %+v", got)
	}
}

// TestALateFillRevivesNoTarget: a reader that has an alias's row in hand when it is
// changed does not bring the old target back.
func TestALateFillRevivesNoTarget(t *testing.T) {
	t.Parallel()
	store := racktest.NewGated()
	r := racktest.Start(t, func(c *rack.Config) { c.Store = store })
	first, second := r.CreateKey(), r.CreateKey()
	createAlias(t, r, "alias/a", first)
	for _, warm := range []string{first, second} {
		if _, err := encryptedBy(t, r.Client, warm); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{second, first, ""} {
		kms.ForgetAlias(r.KMS(), racktest.Account, "a")
		waiting, release := store.Hold()
		done := make(chan error, 1)
		go func() {
			_, err := encryptedBy(t, r.Client, "alias/a")
			done <- err
		}()
		<-waiting // it has read the row
		kms.PointAlias(t, r.KMS(), racktest.Account, "a", ref(want).ID)
		release()
		if err := <-done; err != nil {
			t.Errorf("a call that had read the alias before: %v", err)
		}
		got, err := encryptedBy(t, r.Client, "alias/a")
		if got != want || want == "" && api.KindOf(err) != api.KindNotFound {
			t.Errorf("after the change it encrypts by %q, %v, want %q", got, err, want)
		}
	}
}

// TestAnAliasThatMovedMeanwhile: the door was asked for the key that an alias named
// when its row was read. Where it names another one by the time of the change,
// nothing is changed.
func TestAnAliasThatMovedMeanwhile(t *testing.T) {
	t.Parallel()
	store := racktest.NewGated()
	r := racktest.Start(t, func(c *rack.Config) { c.Store = store })
	d, me := newDesk(r), rootOf(racktest.Account)
	first, second := r.CreateKey(), r.CreateKey()
	createAlias(t, r, "alias/a", first)
	for what, c := range map[string]struct {
		to   string
		do   func() error
		want api.Kind
	}{
		"delete, moved": {second, func() error {
			_, err := ask(t, d, me, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: "alias/a"})
			return err
		}, api.KindUnavailable},
		"update, moved": {second, func() error {
			_, err := ask(t, d, me, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: "alias/a", TargetKeyId: ref(first)})
			return err
		}, api.KindUnavailable},
		"delete, gone": {"", func() error {
			_, err := ask(t, d, me, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: "alias/a"})
			return err
		}, api.KindNotFound},
		"update, gone": {"", func() error {
			_, err := ask(t, d, me, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: "alias/a", TargetKeyId: ref(second)})
			return err
		}, api.KindNotFound},
	} {
		kms.PointAlias(t, r.KMS(), racktest.Account, "a", keyID(t, first))
		for _, warm := range []string{first, second} { // only the alias is to be read while reads are held
			if _, err := encryptedBy(t, r.Client, warm); err != nil {
				t.Fatal(err)
			}
		}
		kms.ForgetAlias(r.KMS(), racktest.Account, "a")
		waiting, release := store.Hold()
		done := make(chan error, 1)
		go func() { done <- c.do() }()
		<-waiting
		kms.PointAlias(t, r.KMS(), racktest.Account, "a", ref(c.to).ID)
		release()
		if err := <-done; api.KindOf(err) != c.want {
			t.Errorf("%s: got %v, want %v", what, err, c.want)
		}
		kms.PointAlias(t, r.KMS(), racktest.Account, "a", keyID(t, first))
		wantSound(t, r)
	}
}

// TestKeysAndAliasesSurviveARestart: states, names and counts, from a store on disk.
func TestKeysAndAliasesSurviveARestart(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	first, second := r.CreateKey(), r.CreateKey()
	blob := encrypt(t, r, second, []byte("x"))
	createAlias(t, r, "alias/a", first)
	createAlias(t, r, "alias/b", second)
	updateAlias(t, r, "alias/a", second)
	if _, err := client.Do(t.Context(), r.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: "alias/b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(first)}); err != nil {
		t.Fatal(err)
	}
	page, err := ask(t, newDesk(r), rootOf(racktest.Account), kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	r.Restart(nil)
	wantSound(t, r)
	if got, err := encryptedBy(t, r.Client, "alias/a"); err != nil || got != second {
		t.Errorf("the alias names %s, %v, want %s", got, err, second)
	}
	if got, err := decrypt(t, r.Client, blob); err != nil || string(got) != "x" {
		t.Errorf("an old message decrypts to %q, %v", got, err)
	}
	_, err = encryptedBy(t, r.Client, first)
	wantKind(t, err, api.KindDisabled)
	_, err = encryptedBy(t, r.Client, "alias/b")
	wantKind(t, err, api.KindNotFound)
	next, err := ask(t, newDesk(r), rootOf(racktest.Account), kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: 1, Marker: page.NextMarker})
	if err != nil || len(next.Keys) != 1 || next.Keys[0] == page.Keys[0] || next.Truncated {
		t.Errorf("the second page is %+v, %v", next, err)
	}
}

// problems returns what a walk of all rows finds.
func problems(tb testing.TB, r *racktest.Rack) (all []string) {
	tb.Helper()
	if err := kms.Rows(r.KMS()).View(tb.Context(), func(reader keystore.Reader) error {
		all = nil
		return r.KMS().Check(tb.Context(), reader, func(p string) { all = append(all, p) })
	}); err != nil {
		tb.Fatal(err)
	}
	return all
}

// wantSound checks that all rows agree.
func wantSound(tb testing.TB, r *racktest.Rack) {
	tb.Helper()
	if all := problems(tb, r); len(all) > 0 {
		tb.Errorf("the rows do not agree: %q", all)
	}
}
