package appliance

import (
	"errors"
	"fmt"
	"strings"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/internal/work"
)

// Bounds of one answer of ListAuditRecords.
const (
	defaultRecords = 100
	mostBytes      = 512 << 10
)

// errEnough ends a walk over the log.
var errEnough = errors.New("enough records")

// ListAuditRecords returns durable records in their order.
func (s *Service) ListAuditRecords(c *access.Call, in *applianceapi.ListAuditRecordsRequest, out *applianceapi.ListAuditRecordsResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	durable := int64(s.Log.Durable())
	if out.From = in.From; in.From < 0 {
		out.From = max(0, durable+in.From)
	}
	out.Next = out.From
	last := min(durable, out.From+orDefault(in.Limit))
	if out.From >= last {
		return nil
	}
	size := 0
	err := s.Log.Follow(c.Context(), audit.Position(out.From), func(_ audit.Position, record []byte) error {
		if size += len(record); size > mostBytes {
			return errEnough
		}
		out.Records = append(out.Records, append(api.Blob(nil), record...))
		if out.Next++; out.Next >= last {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		return api.Internal(fmt.Errorf("read the audit log: %w", err))
	}
	return nil
}

func orDefault(limit int64) int64 {
	if limit == 0 {
		return defaultRecords
	}
	return limit
}

// GetAuditCheckpoint returns the newest signed checkpoint and who signs.
func (s *Service) GetAuditCheckpoint(c *access.Call, _ *applianceapi.GetAuditCheckpointRequest, out *applianceapi.GetAuditCheckpointResponse) error {
	if err := c.Admit(access.Log(c)); err != nil {
		return err
	}
	out.Checkpoint, out.Key = string(s.Log.Checkpoint()), s.AuditKey
	return nil
}

// GetAuditConsistency proves that the log has only grown since it held OldSize
// records.
func (s *Service) GetAuditConsistency(c *access.Call, in *applianceapi.GetAuditConsistencyRequest, out *applianceapi.GetAuditConsistencyResponse) error {
	if err := c.Admit(access.Log(c)); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	note := s.Log.Checkpoint()
	text, _, _ := strings.Cut(string(note), "\n\n")
	newest, err := tlog.ParseCheckpoint(text + "\n")
	if err != nil {
		return api.Internal(fmt.Errorf("newest checkpoint: %w", err))
	}
	if uint64(in.OldSize) > newest.Size {
		return api.Errorf(api.KindValidation, "OldSize %d is beyond the newest checkpoint, which covers %d records", in.OldSize, newest.Size)
	}
	proof, err := s.Log.Consistency(c.Context(), audit.Position(in.OldSize), audit.Position(newest.Size))
	if err != nil {
		return api.Internal(fmt.Errorf("consistency proof: %w", err))
	}
	out.Checkpoint = string(note)
	for _, h := range proof {
		out.Proof = append(out.Proof, h[:])
	}
	return nil
}
