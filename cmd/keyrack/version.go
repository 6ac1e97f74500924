package main

import (
	"flag"
	"fmt"
	"runtime"
)

// versionCommand asks nobody; the appliance's own version is in its status.
var versionCommand = command{
	name: "version", args: "[--output FORMAT]", short: "the version of this binary",
	long:     "Prints the version of this binary, the Go release that built it and the platform it is for.",
	examples: []string{"keyrack version"},
	flags:    versionFlags,
}

// versionFlags declares the flags and acts.
func versionFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		v := struct{ Version, Go, Platform string }{version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		return format.print(sh.out, v, fmt.Sprintf("keyrack %s %s %s\n", v.Version, v.Go, v.Platform))
	})
}
