package api

import (
	"bytes"
	"fmt"
)

// Realm is where an appliance says it is: the partition and region of every
// ARN it mints and accepts. Immutable configuration. A region need not look like one of
// AWS's: with an endpoint given, clients sign for any host label and send any ReplicaRegion
// (botocore, utils.validate_region_name, and the first rule of kms's endpoint-rule-set;
// aws-sdk-go-v2, rulesfn.IsValidHostLabel; tried with boto3 1.43.11, aws-cli 1.45.11 and
// aws-sdk-go-v2/service/kms 1.62.4). Its form is that of the pattern "region".
type Realm struct {
	Partition string // "aws"
	Region    string // "rack-1"
}

// KeyARN returns arn:<partition>:kms:<region>:<account>:key/<key id>.
func (r Realm) KeyARN(a AccountID, id KeyID, multi bool) string {
	b := make([]byte, 0, 96)
	b = append(append(append(b, "arn:"...), r.Partition...), ":kms:"...)
	b = append(append(append(append(b, r.Region...), ':'), a.String()...), ":key/"...)
	return string(id.AppendText(b, multi))
}

// AliasARN returns arn:<partition>:kms:<region>:<account>:<name>; name begins
// with "alias/".
func (r Realm) AliasARN(a AccountID, name string) string {
	return fmt.Sprintf("arn:%s:kms:%s:%s:%s", r.Partition, r.Region, a, name)
}

// RootARN returns the ARN of an account's root: arn:<partition>:iam::<account>:root.
func (r Realm) RootARN(a AccountID) string {
	return fmt.Sprintf("arn:%s:iam::%s:root", r.Partition, a)
}

// RefForm is which of the four forms of a key reference a caller used
// (AWS KMS developer guide, "Key identifiers (KeyId)").
type RefForm uint8

// The forms. RefInvalid is a text that is none of them, RefBadARN one that begins as an
// ARN and is none of KMS, RefAbsent no text at all.
const (
	RefAbsent RefForm = iota
	RefInvalid
	RefKeyID
	RefKeyARN
	RefAlias
	RefAliasARN
	RefBadARN
)

// KeyRef is a reference to a key as a caller wrote it, parsed once. Text, and
// so Alias, Partition and Region, alias the request: whoever keeps one clones it.
// A text of no known form is not an error here, because AWS answers it with the
// operation's own error after other members were checked; Form says RefInvalid or
// RefBadARN.
type KeyRef struct {
	Text      []byte // as written
	Form      RefForm
	Multi     bool      // RefKeyID, RefKeyARN: the "mrk-" form was used
	ID        KeyID     // RefKeyID, RefKeyARN
	Account   AccountID // RefKeyARN, RefAliasARN
	Partition []byte    // RefKeyARN, RefAliasARN
	Region    []byte    // RefKeyARN, RefAliasARN
	Alias     []byte    // RefAlias, RefAliasARN: with its "alias/"
}

// ParseKeyRef parses a key id, a key ARN, an alias name or an alias ARN.
func ParseKeyRef(text []byte) KeyRef {
	r := KeyRef{Text: text, Form: RefInvalid}
	switch {
	case len(text) == 0:
		r.Form = RefAbsent
	case bytes.HasPrefix(text, []byte("arn:")):
		r.parseARN(text[len("arn:"):])
	case isAlias(text):
		r.Form, r.Alias = RefAlias, text
	default:
		if id, multi, ok := parseKeyID(text); ok {
			r.Form, r.ID, r.Multi = RefKeyID, id, multi
		}
	}
	return r
}

// parseARN parses what follows "arn:": partition, "kms", region, account and
// the resource. Where every part is well formed but the id behind "key/" is none, the
// form is RefInvalid, as that of the id alone would be.
func (r *KeyRef) parseARN(s []byte) {
	r.Form = RefBadARN
	var part [4][]byte
	for i := range part {
		var ok bool
		if part[i], s, ok = bytes.Cut(s, []byte(":")); !ok {
			return
		}
	}
	account, err := ParseAccountID(part[3])
	if err != nil || string(part[1]) != "kms" || len(part[0]) == 0 || len(part[2]) == 0 {
		return
	}
	if text, ok := bytes.CutPrefix(s, []byte("key/")); ok {
		id, multi, ok := parseKeyID(text)
		if !ok {
			r.Form = RefInvalid
			return
		}
		r.Form, r.ID, r.Multi = RefKeyARN, id, multi
	} else if isAlias(s) {
		r.Form, r.Alias = RefAliasARN, s
	} else {
		return
	}
	r.Account, r.Partition, r.Region = account, part[0], part[2]
}

// In reports whether the reference names something of realm: always true for
// a bare id or alias name.
func (r *KeyRef) In(realm Realm) bool {
	if r.Form != RefKeyARN && r.Form != RefAliasARN {
		return true
	}
	return string(r.Partition) == realm.Partition && string(r.Region) == realm.Region
}

// String returns the text as written.
func (r KeyRef) String() string { return string(r.Text) }
