package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// domainRotateCommand is keyrack:RotateDomainKey.
var domainRotateCommand = command{
	name: "domain rotate", args: "[--no-wait] " + operatorArgs, short: "a new root and a new domain key",
	long: `
Makes a new root in the token and a new version of the domain key, and destroys the
old root: from then on no copy of an old slot opens anything. It prints the new
version then, and waits until every record is wrapped under it.` + operatorLong,
	examples: []string{"keyrack domain rotate --dir /var/lib/keyrack"},
	flags:    domainRotateFlags,
}

// domainRotateFlags declares the flags and acts.
func domainRotateFlags(fs *flag.FlagSet) action {
	noWait := fs.Bool("no-wait", false, "leave the wrapping to the appliance, which goes on with it")
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		out := new(applianceapi.RotateDomainKeyResponse)
		if err := callFor(c, unlockTimeout, applianceapi.RotateDomainKey.Op, &applianceapi.RotateDomainKeyRequest{}, out); err != nil {
			return err
		}
		if err := format.print(sh.out, responseJSON(applianceapi.RotateDomainKey.Op, out), fmt.Sprintf("domain key version %d\n", out.Version)); err != nil || *noWait {
			return err
		}
		return untilRotated(sh, c)
	})
}

// untilRotated waits until no record is wrapped under an old version.
func untilRotated(sh *shell, c *client.Client) error {
	defer sh.progress("")
	for {
		s, err := call(c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		switch {
		case err != nil:
			return err
		case s.State == applianceapi.Locked:
			return hinted("unlock the appliance: it goes on then by itself", "the appliance was locked before every record was wrapped anew")
		case !s.Rotating:
			return nil
		}
		sh.progress("wrapping %d buckets anew", s.Buckets)
		pause(context.Background())
	}
}
