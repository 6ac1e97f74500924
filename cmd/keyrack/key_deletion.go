package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

var (
	// keyScheduleDeletionCommand is kms:ScheduleKeyDeletion, behind a look at who still needs the key.
	keyScheduleDeletionCommand = command{
		name: "key schedule-deletion", args: "KEY [--days N] [--dry-run] [--force] [--used-within N] [--dir DIR | --socket PATH]", short: "destroy a key after a window in which it can be kept",
		long: `
Nobody can use the key from now on, and after the window it is destroyed, and with
it whatever was encrypted under it. Until then keyrack key cancel-deletion keeps it.
It prints the date. Before it is destroyed the status warns for a day.

A key that was used within the last 30 days, or --used-within N, is not given up
without --force. --dry-run shows the date that would be set, whether --force is needed,
when the key was used last, which aliases name it and, to the operator of the
appliance, who used it in those days and how often by the audit log; it changes nothing.

Older copies of the data folder are closed within a day of the destruction, or at once
by keyrack domain shred.`,
		examples: []string{
			"keyrack key schedule-deletion 3c0bbd8e-8f0f-4b51-9a35-1f6f0f5e6f5c --dry-run",
			"keyrack key schedule-deletion 3c0bbd8e-8f0f-4b51-9a35-1f6f0f5e6f5c --days 7",
		},
		flags: keyScheduleDeletionFlags,
	}
	// keyCancelDeletionCommand is kms:CancelKeyDeletion.
	keyCancelDeletionCommand = command{
		name: "key cancel-deletion", args: "KEY", short: "keep a key that was to be destroyed",
		long: `
The key is disabled then: keyrack key enable lets it be used again. One that lacks
imported material waits for that. It prints which of them it is.`,
		examples: []string{"keyrack key cancel-deletion 3c0bbd8e-8f0f-4b51-9a35-1f6f0f5e6f5c"},
		flags:    keyCancelDeletionFlags,
	}
)

// deletion is what is asked for.
type deletion struct {
	days, within  int64
	dryRun, force bool
	socket        *string // the operator's, "" where no flag names it
}

// keyScheduleDeletionFlags declares the flags and acts.
func keyScheduleDeletionFlags(fs *flag.FlagSet) action {
	var d deletion
	d.days = api.MaxDeletionWindow
	daysFlag(fs, &d.days, "destroy it after `N` days", api.MinDeletionWindow, api.MaxDeletionWindow)
	fs.BoolVar(&d.dryRun, "dry-run", false, "show who needs the key, and change nothing")
	fs.BoolVar(&d.force, "force", false, "also a key that was used lately")
	d.within = 30
	fs.Func("used-within", "lately is within `N` days, 1 to 3650 (default 30)", d.lately)
	d.socket = socketFlag(fs)
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		ref, err := keyOnly(c, key)
		if err != nil {
			return err
		}
		needed, err := needs(c, ref)
		if err != nil {
			return err
		}
		if d.dryRun {
			d.ask(sh, needed, time.Now())
			p := d.foretell(needed, time.Now())
			return format.print(sh.out, p, columns(slices.Concat(needed.rows(), p.rows(), needed.userRows(d.within))))
		}
		if err := d.permit(needed, time.Now()); err != nil {
			return err
		}
		out, err := call(c, kmsapi.ScheduleKeyDeletion, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref, PendingWindowInDays: d.days})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.ScheduleKeyDeletion.Op, out), fmt.Sprintf("destroyed after %s\n", out.DeletionDate.Time().Format(time.RFC3339)))
	})
}

// plan is what a deletion would do, beside what still needs the key.
type plan struct {
	*need
	DeletionDate        string // RFC 3339; by the clock here, which the appliance's may differ from, unless the key is pending deletion
	PendingWindowInDays int64  `json:",omitempty"` // absent where it would be refused
	ForceNeeded         bool
	ForceReason         string `json:",omitempty"`
	Refused             string `json:",omitempty"` // why it would not be done at all
}

// foretell says what would become of the request without --dry-run and --force.
func (d *deletion) foretell(n *need, now time.Time) *plan {
	if n.meta.DeletionDate != 0 {
		return &plan{need: n, DeletionDate: n.meta.DeletionDate.Time().Format(time.RFC3339), Refused: "the key is pending deletion already"}
	}
	p := &plan{need: n, DeletionDate: now.UTC().AddDate(0, 0, int(d.days)).Format(time.RFC3339), PendingWindowInDays: d.days}
	unforced := *d
	unforced.force = false
	if err := unforced.permit(n, now); err != nil {
		p.ForceNeeded, p.ForceReason = true, err.Error()
	}
	return p
}

// rows is what people read of it.
func (p *plan) rows() [][2]string {
	if p.Refused != "" {
		return [][2]string{{"destroyed after", p.DeletionDate}, {"would be refused", p.Refused}}
	}
	force := "not needed"
	if p.ForceNeeded {
		force = "needed: " + p.ForceReason
	}
	return [][2]string{{"would be destroyed", fmt.Sprintf("after %s, in %d days", p.DeletionDate, p.PendingWindowInDays)}, {"--force", force}}
}

// kept is what is printed of a key that stays.
type kept struct {
	KeyId    string // its ARN
	KeyState string // Disabled, or PendingImport
	Next     string // what to do to use it again
}

// keyCancelDeletionFlags declares the flags and acts.
func keyCancelDeletionFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		ref, err := keyOnly(c, key)
		if err != nil {
			return err
		}
		out, err := call(c, kmsapi.CancelKeyDeletion, &kmsapi.CancelKeyDeletionRequest{KeyId: ref})
		if err != nil {
			return err
		}
		now, err := call(c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref})
		if err != nil {
			fmt.Fprintln(sh.err, "the key is kept; its state is not known:", err)
			return nil
		}
		k := kept{out.KeyId, now.KeyMetadata.KeyState.String(), "keyrack key enable " + oneLine(key)}
		does := "lets it be used again"
		if now.KeyMetadata.KeyState == kmsapi.StatePendingImport {
			k.Next, does = "keyrack key import "+oneLine(key)+" --file FILE", "brings what it lacks"
		}
		return format.print(sh.out, &k, fmt.Sprintf("kept, and %s now: %s %s\n", k.KeyState, k.Next, does))
	})
}

// lately sets what lately is. A window of no days, or of so many that its beginning is before
// there was a time, would let every key go.
func (d *deletion) lately(text string) (err error) {
	const most = 3650
	if d.within, err = strconv.ParseInt(text, 10, 64); err != nil || d.within < 1 || d.within > most {
		return errors.New("want a number of days, 1 to 3650")
	}
	return nil
}

// permit refuses a key that was used lately, or of which nobody knows whether it was.
func (d *deletion) permit(n *need, now time.Time) error {
	if !d.force && n.Unknown != "" {
		return hinted("--dry-run shows who needs it, and to the operator who used it by the audit log; disable it first and see who complains, or give --force",
			"when the key was used last is not known: %s", n.Unknown)
	}
	if d.force || n.LastUsage == "" || now.Sub(n.used) > time.Duration(d.within)*24*time.Hour {
		return nil
	}
	return hinted("--dry-run shows who needs it; disable it first and see who complains, or give --force",
		"the key was used on %s, within the last %d days", n.LastUsage, d.within)
}

// ask adds who used the key, which its operator alone may see: the log has every account's calls.
func (d *deletion) ask(sh *shell, n *need, now time.Time) {
	within := time.Duration(d.within) * 24 * time.Hour
	if *d.socket == "" && sh.socket() == "" {
		n.NotAsked = fmt.Sprintf("the operator sees who used it: give --dir, or run keyrack audit search --resource %s --from %dd", n.KeyId, d.within)
		return
	}
	var err error
	if n.Users, err = usersOf(sh, *d.socket, n.KeyId, now.Add(-within)); err != nil {
		n.NotAsked = fmt.Sprintf("who used it is not known (%v): as the operator, run keyrack audit search --resource %s --from %dd", err, n.KeyId, d.within)
	}
}

// need is what still needs a key, as far as its account can see.
type need struct {
	KeyId     string
	KeyState  string
	LastUsage string `json:",omitempty"` // RFC 3339; absent for never
	Operation string `json:",omitempty"` // of it
	Unknown   string `json:",omitempty"` // why its last use is not known
	Aliases   []string
	Users     []*keyUser // in the last days, by the audit log; null where NotAsked says why
	NotAsked  string     `json:",omitempty"`

	used time.Time
	meta *kmsapi.KeyMetadata
}

// needs asks for it.
func needs(c *client.Client, ref api.KeyRef) (*need, error) {
	key, err := call(c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref})
	if err != nil {
		return nil, err
	}
	n := &need{meta: &key.KeyMetadata, KeyId: key.KeyMetadata.KeyId, KeyState: key.KeyMetadata.KeyState.String(), Aliases: []string{}}
	used, err := call(c, kmsapi.GetKeyLastUsage, &kmsapi.GetKeyLastUsageRequest{KeyId: ref})
	switch {
	case err != nil && api.KindOf(err) != api.KindInternal: // which it is where uses are no longer counted
		return nil, err
	case err != nil:
		n.Unknown = err.Error()
	case used.KeyLastUsage.Timestamp != 0:
		n.used = used.KeyLastUsage.Timestamp.Time()
		n.LastUsage, n.Operation = n.used.Format(time.RFC3339), used.KeyLastUsage.Operation.String()
	}
	for marker := ""; ; {
		page, err := call(c, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: ref, Marker: marker})
		if err != nil {
			return nil, err
		}
		for _, a := range page.Aliases {
			n.Aliases = append(n.Aliases, a.AliasName)
		}
		if marker = page.NextMarker; marker == "" {
			return n, nil
		}
	}
}

// rows is what people read.
func (n *need) rows() [][2]string {
	last := n.LastUsage + " by " + n.Operation
	switch {
	case n.Unknown != "":
		last = "not known: " + n.Unknown
	case n.LastUsage == "":
		last = "never"
	}
	rows := [][2]string{{"key", n.KeyId}, {"state", n.KeyState}, {"last used", last}, {"aliases", fmt.Sprint(len(n.Aliases))}}
	for _, a := range n.Aliases {
		rows = append(rows, [2]string{"", a})
	}
	return rows
}
