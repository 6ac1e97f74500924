package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/protocol/client"
)

// nameless returns the names among --who that no client is known to have. A record has
// what the client's key hashes to, and the ARN of the root or the operator that it is:
// any other name has to be looked up, or the search would find nothing and say so.
func (s *searcher) nameless(found map[string][]string) (names []string) {
	for _, who := range s.filter.Who {
		if !strings.Contains(who, ":") && who != "root" && who != "operator" && len(found[who]) == 0 {
			names = append(names, who)
		}
	}
	return names
}

// names adds the key hashes of the clients that --who names: of those that are registered,
// else of all that ever were by that name, as the log has it. A locked appliance knows the
// log alone.
func (s *searcher) names(c *client.Client) error {
	found := map[string][]string{}
	if len(s.nameless(found)) > 0 {
		err := eachPrincipal(c, func(p applianceapi.Principal) error {
			found[p.Name] = append(found[p.Name], p.KeyHash)
			return nil
		})
		if e := api.AsError(err); err != nil && (e == nil || e.Kind != api.KindInvalidState || e.Reason != "locked") {
			return err
		}
	}
	if len(s.nameless(found)) > 0 {
		if err := s.registrations(c, found); err != nil {
			return err
		}
	}
	return s.mean(found)
}

// registrations adds to found who was ever registered, as an appliance's log has it.
func (s *searcher) registrations(c *client.Client, found map[string][]string) error {
	return eachFound(c, registrationFilter(), s.meter, func(r *audit.Record) error { return registered(r, found) })
}

// eachFound calls f with each record of an appliance's log for which a filter holds.
func eachFound(c *client.Client, filter *audit.Filter, m *meter, f func(*audit.Record) error) error {
	defer m.clear()
	in := wireFilter(filter)
	in.Limit = recordsPerPage
	for {
		out, err := call(c, applianceapi.SearchAuditRecords, in)
		if err != nil {
			return err
		}
		for _, encoded := range out.Records {
			r, err := audit.ParseRecord(encoded)
			if err != nil {
				return unreadable(err)
			}
			if err := f(&r); err != nil {
				return err
			}
		}
		if m.show(out.Next, out.Until); out.Next >= out.Until {
			return nil
		}
		in.From, in.Until = out.Next, out.Until
	}
}

// namesIn is names for a folder, which has the log alone. What it reads here is proved
// when the search reads it again.
func (s *searcher) namesIn(dir string) error {
	found := map[string][]string{}
	if len(s.nameless(found)) == 0 {
		return nil
	}
	_, _, err := audit.Search(audit.Dir(dir), audit.VerifyOptions{}, registrationFilter(), func(_ audit.Position, r *audit.Record, _ []byte) error {
		return registered(r, found)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return s.mean(found)
}

// registrationFilter matches the records of clients that were registered.
func registrationFilter() *audit.Filter {
	return &audit.Filter{Ops: []uint16{applianceapi.AddPrincipal.Op.Number}, Errors: []uint16{0}}
}

// registered adds the client of such a record to found.
func registered(r *audit.Record, found map[string][]string) error {
	request, err := readMembers(applianceapi.AddPrincipal.Op.In, r.Request)
	if err != nil {
		return unreadable(err)
	}
	text := map[string]string{}
	for _, m := range request {
		text[m.name] = valueText(m.value)
	}
	found[text["Name"]] = append(found[text["Name"]], text["KeyHash"])
	return nil
}

// mean adds what was found to the filter, and refuses a name of nobody.
func (s *searcher) mean(found map[string][]string) error {
	if names := s.nameless(found); len(names) > 0 {
		return hinted("keyrack principal list shows who is registered, keyrack audit search --op AddPrincipal who ever was; --who takes a client's sha256:… too",
			"audit search: --who: no client is or was registered as %q", names[0])
	}
	for _, who := range slices.Clone(s.filter.Who) {
		s.filter.Who = append(s.filter.Who, found[who]...)
	}
	return nil
}
