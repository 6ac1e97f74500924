package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// demoLines is what --demo types into a shell. Nothing of what it shows is made up:
// the commands run, and what they print is what is seen.
var demoLines = []string{
	"# A key: only its id leaves the appliance.",
	"key=$(keyrack key create --description demo); echo $key",
	"",
	"# A file, encrypted through TLS 1.3 and CBOR, and bound to a context.",
	"echo 'attack at dawn' > letter.txt",
	"keyrack encrypt --key $key --context to=bob --in letter.txt --out letter.enc",
	"wc -c letter.txt letter.enc",
	"keyrack decrypt --context to=bob --in letter.enc",
	"",
	"# For another context it does not open.",
	"keyrack decrypt --context to=eve --in letter.enc",
	"",
	"# Each call left one record, and it was on disk before the answer left.",
	"keyrack audit tail -n 4",
	"",
	"# The log proves itself from its files and one public key, up to its newest",
	"# checkpoint. One is signed a second.",
	"sleep 1",
	"keyrack audit verify",
	"",
}

// demo runs demoLines in a real shell, each shown as it is typed, and says how
// to go on.
func (d *devAppliance) demo(sh *shell, signals <-chan os.Signal) error {
	dir, err := os.MkdirTemp(d.cfg.Dir, "demo-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var script strings.Builder
	fmt.Fprintf(&script, "exec 2>&1; cd %s || exit\n", shellQuote(dir))
	for _, line := range demoLines {
		shown := line
		if line != "" && !strings.HasPrefix(line, "#") {
			shown = "$ " + line
		}
		fmt.Fprintf(&script, "printf '%%s\\n' %s\n%s\n", shellQuote(shown), line)
	}
	if err := child(sh, []string{"sh", "-c", script.String()}, signals); err != nil {
		return err
	}
	if err := d.explain(sh.out); err != nil {
		return err
	}
	_, err = io.WriteString(sh.out, "# Read on: README.md, api/kmsapi/encrypt.go, access/gate.go\n")
	return err
}
