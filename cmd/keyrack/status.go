package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// statusCommand is keyrack:GetStatus, the first thing an operator looks at.
var statusCommand = command{
	name: "status", args: "[--wait DURATION] " + operatorArgs, short: "how the appliance is",
	long: `
Prints how the appliance is, and what its operator should change. Of a locked one
nobody knows its records. With --wait it first waits until the appliance serves, as
after a start; one that does not by then is an error.` + operatorLong,
	examples: []string{
		"keyrack status --dir /var/lib/keyrack",
		"keyrack status --wait 1m --output json",
	},
	flags: statusFlags,
}

// waitsForPIN is all that there is to say of an appliance that has not opened its token.
const waitsForPIN = "the appliance waits for the PIN of its token: keyrack unlock gives it"

// statusFlags declares the flags and acts.
func statusFlags(fs *flag.FlagSet) action {
	wait := fs.Duration("wait", 0, "wait until the appliance is UNLOCKED, at most `DURATION`, such as 30s")
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		s, err := statusAfter(c, *wait)
		if waits(err) != "" {
			s, err = &applianceapi.GetStatusResponse{State: applianceapi.Locked, Warnings: []string{waitsForPIN}}, nil
			return format.print(sh.out, responseJSON(applianceapi.GetStatus.Op, s), columns([][2]string{{"state", s.State.String()}, {"WARNING", waitsForPIN}}))
		}
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(applianceapi.GetStatus.Op, s), columns(statusRows(s)))
	})
}

// statusAfter returns the status at once, or after an appliance that starts has
// been given until wait is over to serve.
func statusAfter(c *client.Client, wait time.Duration) (*applianceapi.GetStatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	for {
		s, err := call(c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		switch {
		case wait == 0 || err == nil && s.State == applianceapi.Unlocked:
			return s, err
		case pause(ctx) == nil:
		case err == nil:
			return nil, hinted("keyrack unlock unlocks it", "the appliance is %s after %v", s.State, wait)
		default:
			return nil, err
		}
	}
}

// statusRows returns what people read: the state first, warnings last, where
// they stay on the screen. What the heap gave since the start is for bench and JSON.
func statusRows(s *applianceapi.GetStatusResponse) [][2]string {
	rows := [][2]string{
		{"state", s.State.String()},
		{"appliance", s.ApplianceId},
		{"version", s.Version},
		{"running since", s.StartTime.Time().Format(time.RFC3339)},
		{"server key", s.ServerKey},
		{"token", s.Token},
		{"audit log", fmt.Sprintf("%d records, %s before they are answered for", s.AuditRecords, s.AuditDurability)},
	}
	if s.State == applianceapi.Unlocked {
		rows = append(rows, recordRows(s)...)
	}
	rows = append(rows, [][2]string{
		{"connections", fmt.Sprint(s.Connections)},
		{"CPU time", (time.Duration(s.CPUMicros) * time.Microsecond).String()},
	}...)
	for _, w := range s.Warnings {
		rows = append(rows, [2]string{"WARNING", w})
	}
	return rows
}

// recordRows returns what is known of an unlocked appliance alone.
func recordRows(s *applianceapi.GetStatusResponse) [][2]string {
	version := fmt.Sprint(s.DomainKeyVersion)
	if s.Rotating {
		version += ", rotating: records are still being wrapped anew"
	}
	return [][2]string{
		{"address", s.Address},
		{"domain key version", version},
		{"principals", fmt.Sprint(s.Principals)},
		{"records", fmt.Sprintf("%d in %d buckets, generation %d", s.Rows, s.Buckets, s.Generation)},
	}
}
