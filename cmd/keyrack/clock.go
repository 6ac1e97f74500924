package main

import (
	"flag"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

var (
	// clockCommand is keyrack:GetClock.
	clockCommand = command{
		name: "clock", args: operatorArgs, short: "which time the appliance believes",
		long: `
Shows the machine's clock, the time that the appliance accepts, the floor, before which
no start begins, and the leash: the latest that the machine's clock may say and be
believed. Beyond it nothing that is due is done.` + operatorLong,
		examples: []string{"keyrack clock --dir /var/lib/keyrack"},
		flags:    clockFlags,
	}
	// clockAcceptCommand is keyrack:AcceptClock.
	clockAcceptCommand = command{
		name: "clock accept", args: "[--yes] " + operatorArgs, short: "believe the machine's clock, and go on from there",
		long: `
Makes what the machine's clock says the time that the appliance accepts, for an appliance
that was off for more than seven days in all. Time does not go back: look at the clock
first. It shows what becomes due by that, such as keys that are destroyed; where there is
any, it asks for --yes.` + operatorLong,
		examples: []string{"keyrack clock accept --dir /var/lib/keyrack"},
		flags:    clockAcceptFlags,
	}
	// domainShredCommand is keyrack:ShredDeletedKeys.
	domainShredCommand = command{
		name: "domain shred", args: operatorArgs, short: "close older copies of the data folder to destroyed keys, now",
		long: `
The appliance does so by itself within a day of the destruction of a key: what was sealed
beside the key's material is sealed anew, and the domain key is rotated. It returns when
that is done, and prints how many keys it concerned.` + operatorLong,
		examples: []string{"keyrack domain shred --dir /var/lib/keyrack"},
		flags:    domainShredFlags,
	}
)

// clockFlags declares the flags and acts.
func clockFlags(fs *flag.FlagSet) action {
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		out, err := call(c, applianceapi.GetClock, &applianceapi.GetClockRequest{})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(applianceapi.GetClock.Op, out), columns(clockRows(out)))
	})
}

// clockRows is what people read.
func clockRows(out *applianceapi.GetClockResponse) [][2]string {
	believed := "yes"
	if !out.Believed {
		believed = "NO: nothing that is due is done; set the machine's clock, or if it is right run keyrack clock accept"
	}
	return [][2]string{
		{"machine", instant(out.SystemClock)},
		{"accepted", instant(out.AcceptedTime)},
		{"floor", instant(out.Floor)},
		{"leash", instant(out.Leash)},
		{"believed", believed},
		{"powered on", (time.Duration(out.PoweredSeconds) * time.Second).String()},
	}
}

func instant(t api.Time) string { return t.Time().Format(time.RFC3339) }

// clockAcceptFlags declares the flags and acts.
func clockAcceptFlags(fs *flag.FlagSet) action {
	yes := fs.Bool("yes", false, "also where something becomes due by that")
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		preview, err := call(c, applianceapi.AcceptClock, &applianceapi.AcceptClockRequest{Preview: true})
		if err != nil {
			return err
		}
		if preview.AcceptedTime > preview.Before && len(preview.Due) > 0 { // else nothing becomes due by it, or the clock is behind, which the call refuses
			for _, what := range preview.Due {
				fmt.Fprintln(sh.err, oneLine(what))
			}
			if !*yes {
				return hinted("see that the machine's clock is right, and repeat it with --yes", "%d things become due on %s", len(preview.Due), instant(preview.AcceptedTime))
			}
		}
		out, err := call(c, applianceapi.AcceptClock, &applianceapi.AcceptClockRequest{})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(applianceapi.AcceptClock.Op, out), fmt.Sprintf("accepted %s, in place of %s\n", instant(out.AcceptedTime), instant(out.Before)))
	})
}

// domainShredFlags declares the flags and acts.
func domainShredFlags(fs *flag.FlagSet) action {
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		out := new(applianceapi.ShredDeletedKeysResponse)
		if err := callFor(c, unlockTimeout, applianceapi.ShredDeletedKeys.Op, &applianceapi.ShredDeletedKeysRequest{}, out); err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(applianceapi.ShredDeletedKeys.Op, out), fmt.Sprintf("%d destroyed keys and imported materials shredded\n", out.Keys))
	})
}
