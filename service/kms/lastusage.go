package kms

import (
	"context"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
)

// GetKeyLastUsage returns the last successful use of a key and, which AWS does not, how often it
// was used for what. It knows of every use that was answered before it was called. (AWS KMS API
// Reference, GetKeyLastUsage.)
//
// Errors in the order in which they are found: ValidationException, NotFound and AccessDenied; last
// Unavailable where the log is not counted up to now in time.
func (s *Service) GetKeyLastUsage(c *access.Call, in *kmsapi.GetKeyLastUsageRequest, out *kmsapi.GetKeyLastUsageResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	l, err := s.used.of(c.Context(), k.id)
	if err != nil {
		return err
	}
	out.KeyId, out.KeyCreationDate, out.TrackingStartDate = k.ARN(), k.row.Created, l.since
	if l.op == 0 {
		return nil
	}
	event := l.event.String()
	out.KeyLastUsage = kmsapi.KeyLastUsageData{Operation: l.op, Timestamp: l.time, CloudTrailEventId: event, KmsRequestId: event}
	for op, n := range l.counts {
		if n > 0 {
			out.UsageCounts = append(out.UsageCounts, kmsapi.UsageCount{Operation: kmsapi.UsageOperation(op), Count: int64(n)})
		}
	}
	return nil
}

// unusedDays returns for how many whole days a key was not used at time now: since its last use, or, where
// none is known, since it was made or tracking began, whichever is later. It reads a row and may
// wait for the log to be counted; errors are those of the store, the log and the context.
func (s *Service) unusedDays(ctx context.Context, k *key, now time.Time) (int, error) {
	l, err := s.used.of(ctx, k.id)
	if err != nil {
		return 0, err
	}
	last := max(l.since, k.row.Created)
	if l.op != 0 {
		last = l.time
	}
	return int(max(0, api.TimeOf(now)-last) / api.Time((24 * time.Hour).Microseconds())), nil
}
