package main

import (
	"flag"

	"github.com/keyrack/keyrack/internal/rack"
)

// devResetCommand removes what dev keeps.
var devResetCommand = command{
	name: "dev reset", args: "[--dir DIR]", short: "remove the keys and everything else that dev keeps",
	long: `
Removes the folder of keyrack dev with all its keys. It asks nothing. It refuses a
folder that dev did not make, and one that is in use.`,
	examples: []string{"keyrack dev reset"},
	flags:    devResetFlags,
}

// devResetFlags declares the flags and acts.
func devResetFlags(fs *flag.FlagSet) action {
	dir := fs.String("dir", "", "remove `DIR` instead of the usual folder")
	return noWords(fs, func(sh *shell) error {
		path, err := devDir(sh, *dir)
		if err != nil {
			return err
		}
		return rack.DevReset(path)
	})
}
