package appliance

import (
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/work"
)

// mostRead is how many records one answer of SearchAuditRecords looks at: a worker is busy with
// them for about a tenth of a second.
const mostRead = 100_000

// SearchAuditRecords returns the durable records that are looked for, in their order.
func (s *Service) SearchAuditRecords(c *access.Call, in *applianceapi.SearchAuditRecordsRequest, out *applianceapi.SearchAuditRecordsResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	if out.Until = int64(s.Log.Durable()); in.Until != 0 {
		out.Until = min(out.Until, in.Until)
	}
	out.Next = min(in.From, out.Until)
	f := filter(in)
	size, limit := 0, int(orDefault(in.Limit))
	found := func(p audit.Position, _ *audit.Record, record []byte) error {
		if size += len(record); size > mostBytes || len(out.Records) == limit {
			return errEnough
		}
		out.Records = append(out.Records, append(api.Blob(nil), record...))
		out.Positions = append(out.Positions, int64(p))
		return nil
	}
	for out.Next < out.Until && out.Read < mostRead {
		end := min(out.Until, out.Next+mostRead-out.Read)
		read, next, err := s.Log.Search(c.Context(), audit.Position(out.Next), audit.Position(end), f, found)
		addRead(out, &read, next)
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil {
			return api.Internal(fmt.Errorf("search the audit log: %w", err))
		}
	}
	return nil
}

// addRead adds what was looked at.
func addRead(out *applianceapi.SearchAuditRecordsResponse, read *audit.Searched, next audit.Position) {
	all := audit.Searched{Records: uint64(out.Read), Earliest: int64(out.Earliest), Latest: int64(out.Latest)}
	all.Add(*read)
	out.Read, out.Earliest, out.Latest = int64(all.Records), api.Time(all.Earliest), api.Time(all.Latest)
	out.Next = int64(next)
}

// filter returns what a request looks for. An absent list is one that holds for all.
func filter(in *applianceapi.SearchAuditRecordsRequest) *audit.Filter {
	return &audit.Filter{
		After: int64(in.After), Before: int64(in.Before), Ops: numbers(in.Operations), Errors: numbers(in.Errors),
		Who: in.Who, Resource: in.Resource, Source: in.Source, RequestID: uint64(in.RequestId),
	}
}

// numbers returns the numbers that records have. The field table keeps them below 65536.
func numbers(in []int64) (out []uint16) {
	for _, n := range in {
		out = append(out, uint16(n))
	}
	return out
}
