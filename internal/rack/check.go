package rack

import (
	"context"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/appliance"
)

// records says how the sealed records are.
func (a *Appliance) records() appliance.Records {
	o := a.open.Load()
	if o == nil {
		return appliance.Records{}
	}
	s := o.records.State()
	return appliance.Records{
		KeyVersion: s.Versions[len(s.Versions)-1], Rotating: a.keyring.Rotating(),
		Generation: s.Generation, Buckets: s.Buckets, Rows: s.Rows, Principals: a.people.Len(),
	}
}

// slots says which ways to the domain key there are.
func (a *Appliance) slots(ctx context.Context) (out applianceapi.ListSlotsResponse, err error) {
	all, authentic, err := a.keyring.Slots(ctx)
	if err != nil {
		return out, err
	}
	out.Authentic = authentic
	for _, s := range all {
		slot := applianceapi.Slot{
			SlotId: string(api.KeyID(s.ID).AppendText(nil, false)), Type: applianceapi.SlotToken, TokenKind: s.Kind,
			Version: int64(s.Version), InToken: s.Here, Open: s.Open,
		}
		if s.Here {
			slot.TokenSerial = a.token.Describe().Serial
		}
		out.Slots = append(out.Slots, slot)
	}
	return out, nil
}

// checkRecords proves that every row is what was written last, and that none is missing.
func (a *Appliance) checkRecords(ctx context.Context, progress func(done, total int)) (appliance.Report, error) {
	o := a.open.Load()
	if o == nil {
		return appliance.Report{}, keystore.ErrLocked
	}
	found, err := o.records.Check(ctx, progress)
	report := appliance.Report{Generation: found.Generation}
	for _, p := range found.Problems {
		report.Problems = append(report.Problems, p.String())
	}
	if found.MoreProblems > 0 {
		report.Problems = append(report.Problems, fmt.Sprintf("%d more rows are not right", found.MoreProblems))
	}
	return report, err
}

// checkClients proves that the rows of each principal agree.
func (a *Appliance) checkClients(ctx context.Context, progress func(done, total int)) (r appliance.Report, err error) {
	o := a.open.Load()
	if o == nil {
		return r, keystore.ErrLocked
	}
	r.Problems, err = o.clients.Check(ctx, progress)
	return r, err
}

// checkKeys checks that keys, their materials, their aliases and the listings of both agree.
func (a *Appliance) checkKeys(ctx context.Context, _ func(done, total int)) (report appliance.Report, err error) {
	o := a.open.Load()
	if o == nil {
		return report, keystore.ErrLocked
	}
	err = o.records.View(ctx, func(r keystore.Reader) error {
		return o.keys.Check(ctx, r, func(problem string) { report.Problems = append(report.Problems, problem) })
	})
	return report, err
}
