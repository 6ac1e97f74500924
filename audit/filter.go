package audit

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/keyrack/keyrack/internal/cbor"
)

// Filter says which records are looked for: those for which all of its members hold. A zero
// member holds for every record. It is read only once it is in use.
type Filter struct {
	After, Before int64    // µs since 1970, UTC: After <= Time < Before
	Ops           []uint16 // the operation's wire number is one of these; 0 is a record of no operation
	Errors        []uint16 // the number of the error kind is one of these; 0 is success
	Who           []string // the caller is one of these: an ARN, the last name in one, or sha256: and 64 hex digits of a credential
	Resource      string   // an ARN, or what ends one behind ':' or '/': a key id, alias/name
	Source        string   // an address without its port, or a beginning of the member that ends with a word
	RequestID     uint64
}

// Matches reports whether r is looked for. A folded record, whose time is that of the first
// refusal in it, matches by what holds for all of them.
func (f *Filter) Matches(r *Record) bool {
	return f.within(r.Time) &&
		(f.Ops == nil || slices.Contains(f.Ops, r.Op)) &&
		(f.Errors == nil || slices.Contains(f.Errors, r.Error)) &&
		(f.RequestID == 0 || f.RequestID == r.RequestID) &&
		(f.Who == nil || f.by(r)) &&
		(f.Source == "" || f.from(r.Source)) &&
		(f.Resource == "" || f.about(r))
}

// within compares a time with the window.
func (f *Filter) within(micros int64) bool {
	return (f.After == 0 || micros >= f.After) && (f.Before == 0 || micros < f.Before)
}

// by compares the caller. What was refused before the caller was known has a credential at most.
func (f *Filter) by(r *Record) bool {
	credential := ""
	if r.Credential != [32]byte{} {
		credential = "sha256:" + hex.EncodeToString(r.Credential[:])
	}
	return slices.ContainsFunc(f.Who, func(who string) bool { return credential != "" && who == credential || names(r.Principal, who) })
}

// from compares the source: "tcp 192.0.2.1:4711", "tcp [2001:db8::1]:4711", "unix pid 1 uid 0".
// The address alone is enough.
func (f *Filter) from(source string) bool {
	if rest, ok := strings.CutPrefix(source, f.Source); ok && (rest == "" || rest[0] == ' ' || rest[0] == ':') {
		return true
	}
	_, address, _ := strings.Cut(source, " ")
	at := strings.LastIndexByte(address, ':')
	return address == f.Source || at >= 0 && strings.Trim(address[:at], "[]") == f.Source
}

// about compares what was asked for, and what the shown members name: a key that is created has
// its id only in the response, and an alias stands in the request as the caller wrote it.
func (f *Filter) about(r *Record) bool {
	for _, arn := range strings.Fields(r.Resource) {
		if names(arn, f.Resource) {
			return true
		}
	}
	return f.shown(r.Request) || f.shown(r.Response)
}

// names reports whether an ARN is wanted, or ends with it as a whole.
func names(arn, wanted string) bool {
	rest, ok := strings.CutSuffix(arn, wanted)
	return ok && wanted != "" && (rest == "" || strings.HasSuffix(rest, ":") || strings.HasSuffix(rest, "/"))
}

// shown reports whether a shown member names the resource.
func (f *Filter) shown(members []byte) bool {
	if len(members) == 0 || !bytes.Contains(members, []byte(f.Resource)) {
		return false
	}
	r := cbor.NewReader(members)
	found, err := f.item(&r)
	return found && err == nil
}

// The major types of RFC 8949 §3.1 that [Filter] looks into.
const (
	cborUint  = 0
	cborText  = 3
	cborArray = 4
	cborMap   = 5
)

// item passes over one item of shown members and reports whether a text in it names the
// resource. A map whose keys are no numbers is an encryption context: a caller's own words. The
// record was parsed, so its nesting is within what internal/cbor allows.
func (f *Filter) item(r *cbor.Reader) (found bool, err error) {
	switch major(r) {
	case cborText:
		b, err := r.Text()
		return names(string(b), f.Resource), err
	case cborArray:
		n, err := r.Array()
		return f.items(r, n, err, false)
	case cborMap:
		inside := *r
		if n, err := inside.Map(); err == nil && n > 0 && major(&inside) == cborUint {
			*r = inside
			return f.items(r, n, nil, true)
		}
	}
	_, err = r.Raw()
	return false, err
}

// items passes over n items, each behind its key in a map.
func (f *Filter) items(r *cbor.Reader, n int, err error, keyed bool) (found bool, _ error) {
	for ; n > 0 && err == nil; n-- {
		if keyed {
			if _, err = r.Uint(); err != nil {
				break
			}
		}
		var here bool
		here, err = f.item(r)
		found = found || here
	}
	return found, err
}

// major returns the major type of the next item, 7 at the end.
func major(r *cbor.Reader) byte {
	if rest := r.Rest(); len(rest) > 0 {
		return rest[0] >> 5
	}
	return 7
}
