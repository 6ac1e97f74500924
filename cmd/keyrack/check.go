package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// checkCommand is keyrack:CheckRecords.
var checkCommand = command{
	name: "check", args: operatorArgs, short: "prove every record of the appliance",
	long: `
Reads every record of the store and proves it against the state root: nothing is
changed, missing, too much or old. No check can see that the whole store was put
back to an older copy while the appliance was stopped. It runs in the
appliance beside its work; on a terminal it shows how far it is. A check that runs
already is waited for. The exit status is 1 if it found problems, which it lists.` + operatorLong,
	examples: []string{"keyrack check --dir /var/lib/keyrack"},
	flags:    checkFlags,
}

// checkFlags declares the flags and acts.
func checkFlags(fs *flag.FlagSet) action {
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		r, err := checked(sh, c)
		if err != nil {
			return err
		}
		if err := format.print(sh.out, responseJSON(applianceapi.CheckRecords.Op, r), checkText(r)); err != nil {
			return err
		}
		if r.State != applianceapi.CheckPassed {
			return hinted("keep a copy of the data folder as evidence, and restore a backup from before", "%d problems", len(r.Problems))
		}
		return nil
	})
}

// checked starts a check and waits for its end.
func checked(sh *shell, c *client.Client) (r *applianceapi.CheckRecordsResponse, err error) {
	defer sh.progress("")
	for first := true; ; first = false {
		r, err = call(c, applianceapi.CheckRecords, &applianceapi.CheckRecordsRequest{Report: !first})
		switch {
		case err != nil:
			return nil, err
		case r.State == 0:
			return nil, hinted("run keyrack check again", "the appliance was started anew before the check was over")
		case r.State != applianceapi.CheckRunning:
			return r, nil
		}
		sh.progress("%d of %d", r.Done, r.Total)
		pause(context.Background())
	}
}

// checkText returns the result for people.
func checkText(r *applianceapi.CheckRecordsResponse) string {
	var b strings.Builder
	if r.State == applianceapi.CheckPassed {
		fmt.Fprintf(&b, "OK: every record agrees with the state root of generation %d (%d steps)\n", r.Generation, r.Done)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "PROBLEM  %s\n", oneLine(p))
	}
	return b.String()
}
