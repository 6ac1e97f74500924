package main

import (
	"flag"
	"fmt"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// slotListCommand is keyrack:ListSlots.
var slotListCommand = command{
	name: "slot list", args: operatorArgs, short: "the ways to the domain key",
	long: `
Lists the slots, the ways to the domain key: id, type, the token that has the root,
the version of the domain key, and whether the running process has its keys from it.
Of a locked appliance they are what its store says; nobody has proved that yet.` + operatorLong,
	examples: []string{"keyrack slot list --dir /var/lib/keyrack"},
	flags:    slotListFlags,
}

// slotListFlags declares the flags and acts.
func slotListFlags(fs *flag.FlagSet) action {
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		out, err := call(c, applianceapi.ListSlots, &applianceapi.ListSlotsRequest{})
		if err != nil {
			return err
		}
		if !out.Authentic {
			fmt.Fprintln(sh.err, "WARNING: the appliance is locked: this is what its store says, which only the domain key can prove.")
		}
		return format.print(sh.out, responseJSON(applianceapi.ListSlots.Op, out), slotLines(out.Slots))
	})
}

// slotLines returns what people read.
func slotLines(all []applianceapi.Slot) string {
	rows := [][]string{{"SLOT", "TYPE", "TOKEN", "SERIAL", "DOMAIN KEY", "STATE"}}
	for _, s := range all {
		state := "of another token, or ended"
		switch {
		case s.Open:
			state = "open"
		case s.InToken:
			state = "in this token"
		}
		rows = append(rows, []string{s.SlotId, s.Type.String(), s.TokenKind, s.TokenSerial, fmt.Sprintf("version %d", s.Version), state})
	}
	return lines(rows)
}
