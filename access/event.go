package access

import (
	"context"
	"crypto/rand"
	"log/slog"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/keystore"
)

// Event is what the appliance has done by itself, for the record: AWS's service
// events (AWS KMS developer guide, "Logging AWS KMS API calls": DeleteKey, RotateKey).
type Event struct {
	Op       *api.Op       // the event's row: kmsapi.DeleteKey.Op
	Account  api.AccountID // of the tenant whom it concerns
	Resource string        // ARN
	Details  any           // pointer to a value of the row's response type; its shown members are recorded
}

// Update is how the appliance itself writes, where nobody has asked: f's rows and the
// record of the event that f returns are one transaction, as in [Call.Update], which
// takes two rows for that. Where f returns no event it has found nothing to do, and has
// changed nothing that anybody would miss; then there is no record. f may run several
// times; its error comes back as it is.
//
// When Update returns nil the change is durable. Its record is in the log or will
// be, however the process ends. While the log cannot take records nothing is done,
// and the log's error is returned. It waits for the store; safe for concurrent use.
func (g *Gate) Update(ctx context.Context, store keystore.Store, f func(keystore.Tx) (*Event, error)) error {
	if err := g.Log.Err(); err != nil {
		return err
	}
	var id api.EventID
	rand.Read(id[:])
	var encoded []byte
	_, err := store.Update(ctx, func(tx keystore.Tx) error {
		encoded = nil
		e, err := f(tx)
		if err != nil || e == nil {
			return err
		}
		rec := g.eventRecord(id, e)
		row := audit.AppendRecord(appendPosition(nil, g.Log.Durable()), &rec)
		encoded = row[positionLen:]
		return putOutbox(tx, outboxName(id), row)
	})
	if err != nil || encoded == nil {
		return err
	}
	g.logEvent(ctx, outboxRow{store: store, event: id, record: encoded, size: positionLen + len(encoded)})
	return nil
}

// eventRecord is the record of an event: the appliance is who did it.
func (g *Gate) eventRecord(id api.EventID, e *Event) audit.Record {
	return audit.Record{
		Event: id, Time: g.Clock.Now().UnixMicro(), Op: e.Op.Number, Resource: e.Resource,
		Principal: applianceARN(g.Realm), Account: string(e.Account[:]), Response: members(e.Op.Out.AppendAudit(nil, e.Details)),
	}
}

// logEvent gives the log the record of a change that is made. What it refuses waits
// in the outbox, whose row goes when the log has it.
func (g *Gate) logEvent(ctx context.Context, row outboxRow) {
	var t audit.Trail
	t.AddEncoded(row.record)
	at, err := g.Log.Append(&t, false)
	if err != nil {
		g.Logger.LogAttrs(ctx, slog.LevelError, "a change is not in the audit log yet", slog.String("request", row.event.String()), slog.Any("error", err))
		at = unlogged
	}
	g.outbox.add([]outboxRow{row}, at)
}

// applianceARN is the appliance as a resource, and as who acts where nobody has asked.
func applianceARN(r api.Realm) string {
	return "arn:" + r.Partition + ":keyrack:" + r.Region + "::appliance"
}
