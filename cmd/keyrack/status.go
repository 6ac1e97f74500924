package main

import (
	"flag"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
)

// statusCommand is keyrack:GetStatus, the first thing an operator looks at.
var statusCommand = command{
	name: "status", args: "[--socket PATH] [--output FORMAT]", short: "how the appliance is",
	long: `
Prints how the appliance is, and what its operator should change. It asks over
the local Unix socket, which is for root and the appliance's own user.`,
	flags: statusFlags,
}

// statusFlags declares the flags and acts.
func statusFlags(fs *flag.FlagSet) action {
	socket := socketFlag(fs)
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		c, err := sh.local(*socket)
		if err != nil {
			return err
		}
		defer c.Close()
		s, err := call(c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(applianceapi.GetStatus.Op, s), columns(statusRows(s)))
	})
}

// statusRows returns what people read: the state first, warnings last, where
// they stay on the screen.
func statusRows(s *applianceapi.GetStatusResponse) [][2]string {
	rows := [][2]string{
		{"state", s.State.String()},
		{"appliance", s.ApplianceId},
		{"version", s.Version},
		{"running since", s.StartTime.Time().Format(time.RFC3339)},
		{"server key", s.ServerKey},
		{"token", s.Token},
		{"audit log", fmt.Sprintf("%d records, %s before they are answered for", s.AuditRecords, s.AuditDurability)},
		{"connections", fmt.Sprint(s.Connections)},
		{"CPU time", (time.Duration(s.CPUMicros) * time.Microsecond).String()},
		{"allocated", fmt.Sprintf("%d objects, %d bytes since the start", s.Allocations, s.AllocatedBytes)},
	}
	for _, w := range s.Warnings {
		rows = append(rows, [2]string{"WARNING", w})
	}
	return rows
}
