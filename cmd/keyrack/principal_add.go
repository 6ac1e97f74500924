package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"strings"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// principalAddCommand is keyrack:AddPrincipal, and makes the client's key first.
var principalAddCommand = command{
	name: "principal add", args: "NAME (--out FOLDER | --key-hash HASH) [--account ID] " + operatorArgs,
	short: "register a client's key as the root of an account",
	long: `
With --out it makes a key and a certificate, NAME.key and NAME.pem in FOLDER, and
registers the key's hash: for a client on this machine. With --key-hash it registers
a key that was made elsewhere, by the hash that keyrack client init has printed there
(the SHA-256 of the key's DER SubjectPublicKeyInfo): for a client on another machine.

Prints the environment of the client, to be pasted into a shell. Files that are
there are never overwritten; those it made are removed if the client cannot be
registered.` + operatorLong,
	examples: []string{
		"keyrack principal add mail-server --key-hash $(cat hash) --account 111122223333",
		"keyrack principal add laptop --out clients --dir /var/lib/keyrack",
	},
	flags: principalAddFlags,
}

// newPrincipal is a principal that is being added.
type newPrincipal struct {
	name, account, out, keyHash string

	made     clientKey // empty for a key that was made elsewhere
	auditKey string    // the appliance's
}

// principalAddFlags declares the flags and acts.
func principalAddFlags(fs *flag.FlagSet) action {
	n := &newPrincipal{}
	fs.StringVar(&n.account, "account", "", "make it the root of the account `ID`, 12 digits; the appliance's only account if not given")
	fs.StringVar(&n.out, "out", "", "make the client's key and certificate in `FOLDER`, which is made if need be")
	fs.StringVar(&n.keyHash, "key-hash", "", "register the key with the `HASH` sha256:<64 hex digits>")
	socket := socketFlag(fs)
	format := outputFlag(fs)
	return named(fs, func(sh *shell, name string) error {
		n.name = name
		if err := n.check(fs.Name()); err != nil {
			return err
		}
		c, err := sh.local(*socket)
		if err != nil {
			return err
		}
		defer c.Close()
		return n.add(sh, c, format)
	})
}

// check refuses what makes no sense before a file is made.
func (n *newPrincipal) check(command string) error {
	if (n.out == "") == (n.keyHash == "") {
		return usagef("keyrack help "+command, "%s: one of --out and --key-hash is needed", command)
	}
	if err := checkFileName(command, n.name); err != nil {
		return err
	}
	if _, err := identity.ParseKeyHash(n.keyHash); n.keyHash != "" && err != nil {
		return misused("give the hash as keyrack client init prints it, sha256: and 64 hex digits", "--key-hash: %w", err)
	}
	if _, err := api.ParseAccountID(n.account); n.account != "" && err != nil {
		return misused("give --account twelve digits, such as 111122223333", "--account: %w", err)
	}
	return nil
}

// add makes the key, registers it and prints the environment.
func (n *newPrincipal) add(sh *shell, c *client.Client, format *format) (err error) {
	if n.account == "" {
		if n.account, err = onlyAccount(c); err != nil {
			return err
		}
	}
	status, err := call(c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil {
		return err
	}
	log, err := call(c, applianceapi.GetAuditCheckpoint, &applianceapi.GetAuditCheckpointRequest{})
	if err != nil {
		return err
	}
	n.auditKey = log.Key
	if n.out != "" {
		made, err := newClientKey(n.out, n.name)
		if err != nil {
			return err
		}
		n.made, n.keyHash = *made, made.hash
	}
	out, err := call(c, applianceapi.AddPrincipal, &applianceapi.AddPrincipalRequest{Name: n.name, Account: n.account, KeyHash: n.keyHash})
	if err != nil {
		return errors.Join(err, n.made.remove())
	}
	return format.print(sh.out, n.environment(status, out), n.exports(status, out))
}

// environment returns what programs read. Cert and Key are absent for a key that
// was made elsewhere.
func (n *newPrincipal) environment(s *applianceapi.GetStatusResponse, out *applianceapi.AddPrincipalResponse) any {
	type principal struct {
		Name, Account, KeyHash, Arn string
	}
	p := out.Principal
	return struct {
		Principal   principal
		Environment map[string]string
	}{principal{p.Name, p.Account, p.KeyHash, p.Arn}, n.variables(s)}
}

// variables returns the client's environment as far as it is known.
func (n *newPrincipal) variables(s *applianceapi.GetStatusResponse) map[string]string {
	v := map[string]string{client.EnvAddr: s.Address, client.EnvServerKey: s.ServerKey, client.EnvAuditKey: n.auditKey}
	if n.made.cert != "" {
		v[client.EnvCert], v[client.EnvKey] = n.made.cert, n.made.key
	}
	return v
}

// exports returns lines for a shell: comments, and the environment.
func (n *newPrincipal) exports(s *applianceapi.GetStatusResponse, out *applianceapi.AddPrincipalResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s is the root of account %s.\n", oneLine(out.Principal.Name), oneLine(out.Principal.Account))
	if at, err := netip.ParseAddrPort(s.Address); err == nil && at.Addr().IsUnspecified() {
		fmt.Fprintf(&b, "# The appliance listens on all its addresses: put one that the client reaches into %s.\n", client.EnvAddr)
	}
	v := n.variables(s)
	for _, name := range []string{client.EnvAddr, client.EnvServerKey, client.EnvAuditKey, client.EnvCert, client.EnvKey} {
		if v[name] == "" {
			fmt.Fprintf(&b, "# %s is the file that keyrack client init has named.\n", name)
			continue
		}
		fmt.Fprintf(&b, "export %s=%s\n", name, shellQuote(oneLine(v[name])))
	}
	return b.String()
}
