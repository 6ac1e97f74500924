package racktest

import (
	"maps"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/protocol/client"
)

// Sight is what is to be seen of [Account]'s keys from outside.
type Sight struct {
	Enabled      map[string]bool   // by key ARN
	Descriptions map[string]string // by key ARN
	Aliases      map[string]string // alias -> key ARN
}

// Look looks at everything, through c.
func Look(tb testing.TB, c *client.Client) *Sight {
	tb.Helper()
	s := &Sight{map[string]bool{}, map[string]string{}, map[string]string{}}
	for in := (kmsapi.ListKeysRequest{Limit: 1000}); ; {
		out, err := client.Do(tb.Context(), c, kmsapi.ListKeys, &in)
		check(tb, err)
		for _, k := range out.Keys {
			d, err := client.Do(tb.Context(), c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: api.ParseKeyRef([]byte(k.KeyArn))})
			check(tb, err)
			s.Enabled[k.KeyArn], s.Descriptions[k.KeyArn] = d.KeyMetadata.Enabled, d.KeyMetadata.Description
		}
		if in.Marker = out.NextMarker; !out.Truncated {
			break
		}
	}
	for in := (kmsapi.ListAliasesRequest{Limit: 100}); ; {
		out, err := client.Do(tb.Context(), c, kmsapi.ListAliases, &in)
		check(tb, err)
		for _, alias := range out.Aliases {
			s.Aliases[alias.AliasName] = keyARN(alias.TargetKeyId)
		}
		if in.Marker = out.NextMarker; !out.Truncated {
			return s
		}
	}
}

// keyARN returns the ARN of a key of [Account].
func keyARN(id string) string { return "arn:aws:kms:rack-1:" + Account.String() + ":key/" + id }

// History is the state that an audit log tells of: each record of a change, in the order of the
// log, applied to nothing. Where it equals what is to be seen, every change has its record, and
// every record its change. Changes name their keys by ARN.
type History struct {
	Enabled map[string]bool   // by key ARN
	Aliases map[string]string // alias -> key ARN
	Events  map[[16]byte]bool // that have a record
}

// NewHistory returns the history of an empty log.
func NewHistory() *History {
	return &History{map[string]bool{}, map[string]string{}, map[[16]byte]bool{}}
}

// Apply makes the change that the next record tells of, if it tells of one.
func (h *History) Apply(tb testing.TB, rec *audit.Record) {
	tb.Helper()
	if h.Events[rec.Event] {
		tb.Errorf("event %x has two records", rec.Event)
	}
	h.Events[rec.Event] = true
	if rec.Error != 0 {
		return
	}
	switch rec.Op {
	case kmsapi.CreateKey.Number:
		h.create(tb, rec)
	case kmsapi.EnableKey.Number, kmsapi.DisableKey.Number:
		h.Enabled[rec.Resource] = rec.Op == kmsapi.EnableKey.Number
	case kmsapi.CreateAlias.Number, kmsapi.UpdateAlias.Number, kmsapi.DeleteAlias.Number:
		h.alias(tb, rec)
	}
}

func (h *History) create(tb testing.TB, rec *audit.Record) {
	tb.Helper()
	var out struct {
		Metadata struct {
			KeyID    string `cbor:"2,keyasint"`
			Material string `cbor:"15,keyasint"`
		} `cbor:"1,keyasint"`
	}
	if err := cbor.Unmarshal(rec.Response, &out); err != nil {
		tb.Fatalf("record of CreateKey: %v", err)
	}
	arn := keyARN(out.Metadata.KeyID)
	if _, twice := h.Enabled[arn]; twice {
		tb.Errorf("%s was created twice", arn)
	}
	h.Enabled[arn] = true
}

func (h *History) alias(tb testing.TB, rec *audit.Record) {
	tb.Helper()
	var in struct {
		Alias  string `cbor:"1,keyasint"`
		Target string `cbor:"2,keyasint,omitempty"`
	}
	if err := cbor.Unmarshal(rec.Request, &in); err != nil {
		tb.Fatalf("record of a change to an alias: %v", err)
	}
	_, there := h.Aliases[in.Alias]
	if there == (rec.Op == kmsapi.CreateAlias.Number) {
		tb.Errorf("operation %d on %s, which is there: %t", rec.Op, in.Alias, there)
	}
	if h.Aliases[in.Alias] = in.Target; rec.Op == kmsapi.DeleteAlias.Number {
		delete(h.Aliases, in.Alias)
	}
}

// Compare compares what the log tells with what is to be seen.
func (h *History) Compare(tb testing.TB, seen *Sight) {
	tb.Helper()
	if !maps.Equal(h.Enabled, seen.Enabled) {
		tb.Errorf("keys: the log tells of %v, and to be seen are %v", h.Enabled, seen.Enabled)
	}
	if !maps.Equal(h.Aliases, seen.Aliases) {
		tb.Errorf("aliases: the log tells of %v, and to be seen are %v", h.Aliases, seen.Aliases)
	}
}
