package policy_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/access/policy"
	"github.com/keyrack/keyrack/api"
)

var (
	tenant = api.AccountID([]byte("111122223333"))
	other  = api.AccountID([]byte("444455556666"))
)

// standard is AWS's default key policy (AWS KMS developer guide, "Default key policy").
const standard = `{
  "Version": "2012-10-17",
  "Id": "key-default-1",
  "Statement": [{
    "Sid": "Enable IAM User Permissions",
    "Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
    "Action": "kms:*",
    "Resource": "*"
  }]
}`

// TestParse: the default key policy is understood, and whatever says something
// else is refused instead of being honoured in part.
func TestParse(t *testing.T) {
	t.Parallel()
	with := func(old, replacement string) string {
		if !strings.Contains(standard, old) {
			t.Fatalf("the policy has no %s", old)
		}
		return strings.Replace(standard, old, replacement, 1)
	}
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"default":            {standard, true},
		"on one line":        {strings.Join(strings.Fields(standard), ""), true},
		"another Id and Sid": {with("key-default-1", "x"), true},
		"no Id":              {with(`"Id": "key-default-1",`, ""), true},
		"no Sid":             {with(`"Sid": "Enable IAM User Permissions",`, ""), true},

		"nothing":             {"", false},
		"empty object":        {"{}", false},
		"null":                {"null", false},
		"an array":            {"[" + standard + "]", false},
		"cut short":           {standard[:len(standard)-1], false},
		"something behind":    {standard + "{}", false},
		"bad UTF-8":           {with("key-default-1", "\xff"), false},
		"older version":       {with("2012-10-17", "2008-10-17"), false},
		"no version":          {with(`"Version": "2012-10-17",`, ""), false},
		"null version":        {with(`"2012-10-17"`, "null"), false},
		"deny":                {with("Allow", "Deny"), false},
		"allow, in lower":     {with("Allow", "allow"), false},
		"one action":          {with(`"kms:*"`, `"kms:Decrypt"`), false},
		"all actions":         {with(`"kms:*"`, `"*"`), false},
		"list of actions":     {with(`"kms:*"`, `["kms:*"]`), false},
		"action in capitals":  {with(`"kms:*"`, `"KMS:*"`), false},
		"one resource":        {with(`"Resource": "*"`, `"Resource": "arn:aws:kms:rack-1:111122223333:key/x"`), false},
		"no resource":         {with(`"kms:*",`, `"kms:*"`+"}]}\x00"), false},
		"another account":     {with("111122223333", "444455556666"), false},
		"another partition":   {with("arn:aws:", "arn:aws-cn:"), false},
		"a user":              {with(":root", ":user/root"), false},
		"everybody":           {with(`{"AWS": "arn:aws:iam::111122223333:root"}`, `"*"`), false},
		"everybody's account": {with("arn:aws:iam::111122223333:root", "*"), false},
		"list of principals":  {with(`"arn:aws:iam::111122223333:root"`, `["arn:aws:iam::111122223333:root"]`), false},
		"a service":           {with(`{"AWS"`, `{"Service": "x", "AWS"`), false},
		"a condition":         {with(`"Effect"`, `"Condition": {}, "Effect"`), false},
		"not action":          {with(`"Action"`, `"NotAction"`), false},
		"unknown member":      {with(`"Version"`, `"Verson": "1", "Version"`), false},
		"member in lower":     {with(`"Effect"`, `"effect"`), false},
		"member twice":        {with(`"Effect"`, `"Effect": "Allow", "Effect"`), false},
		"statement twice":     {with(`"Statement"`, `"Statement": [], "Statement"`), false},
		"no statement":        {`{"Version": "2012-10-17", "Statement": []}`, false},
		"two statements": {with(`"Resource": "*"
  }`, `"Resource": "*"}, {"Effect": "Deny", "Principal": {"AWS": "arn:aws:iam::111122223333:root"}, "Action": "kms:*", "Resource": "*"}`), false},
		"nested deeply": {`{"Version": "2012-10-17", "Statement": ` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + "}", false},
	} {
		rules, err := policy.Parse([]byte(c.text), "aws", tenant)
		switch {
		case c.ok && (err != nil || rules.Decide(&policy.Query{Action: "kms:Encrypt", Account: tenant, Root: true}) != policy.Allow):
			t.Errorf("%s is refused: %v", name, err)
		case !c.ok && (!errors.Is(err, policy.ErrUnsupported) || rules != nil):
			t.Errorf("%s: got %v, %v", name, rules, err)
		}
	}
	if _, err := policy.Parse([]byte(standard+strings.Repeat(" ", api.MaxKeyPolicy)), "aws", tenant); err == nil {
		t.Error("a policy that is too long is accepted")
	}
	if _, err := policy.Parse([]byte(standard), "aws", api.AccountID{}); err == nil {
		t.Error("a policy of no account is accepted")
	}
}

// TestDecide: nobody but the one who is named, and nobody at all without rules.
func TestDecide(t *testing.T) {
	t.Parallel()
	parsed, err := policy.Parse([]byte(standard), "aws", tenant)
	if err != nil {
		t.Fatal(err)
	}
	queries := map[string]policy.Query{
		"root":              {Account: tenant, Root: true},
		"in the account":    {Account: tenant},
		"another root":      {Account: other, Root: true},
		"operator":          {Operator: true},
		"tenant's operator": {Account: tenant, Operator: true},
		"nobody":            {},
		"root of nothing":   {Root: true},
	}
	for name, c := range map[string]struct {
		rules   *policy.Rules
		allowed []string
	}{
		"parsed":     {parsed, []string{"root"}},
		"account":    {policy.AccountRoot(tenant), []string{"root"}},
		"no account": {policy.AccountRoot(api.AccountID{}), nil},
		"appliance":  {policy.OperatorOnly(), []string{"operator", "tenant's operator"}},
		"everyone":   {policy.Everyone(), []string{"root", "another root", "root of nothing", "operator", "tenant's operator"}},
		"none":       {nil, nil},
		"zero":       {new(policy.Rules), nil},
	} {
		for who, q := range queries {
			q.Action = "kms:Decrypt"
			want := policy.Deny
			if slices.Contains(c.allowed, who) {
				want = policy.Allow
			}
			if got := c.rules.Decide(&q); got != want {
				t.Errorf("%s, %s: got %v, want %v", name, who, got, want)
			}
		}
	}
}
