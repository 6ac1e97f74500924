package main

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/protocol/client"
)

// keyUser is a client that has used a key, by the records of the audit log.
type keyUser struct {
	Name       string `json:",omitempty"` // as it is registered; absent for one that was removed
	Principal  string // its ARN
	Credential string `json:",omitempty"` // sha256:…, of its key
	Uses       uint64
	LastUsage  string // RFC 3339

	last int64 // µs since 1970
}

// who names the user for people.
func (u *keyUser) who() string {
	switch {
	case u.Name != "":
		return u.Name
	case u.Credential != "":
		return u.Principal + " " + u.Credential
	}
	return u.Principal
}

// errOtherAppliance is why a socket is not asked who used a key.
var errOtherAppliance = errors.New("the socket is another appliance's than KEYRACK_SERVER_KEY")

// usersOf returns who has used a key since a time, who used it last first: the operator's
// socket knows it, which must be that of the appliance that the client calls.
func usersOf(sh *shell, socket string, id string, since time.Time) ([]*keyUser, error) {
	c, err := sh.local(socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	status, err := call(c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil {
		return nil, err
	}
	if status.ServerKey != sh.env(client.EnvServerKey) {
		return nil, errOtherAppliance
	}
	users, err := countUsers(sh, c, &audit.Filter{After: since.UnixMicro(), Ops: usingOps(), Errors: []uint16{0}, Resource: id})
	if err != nil {
		return nil, err
	}
	all := []*keyUser{}
	for _, u := range users {
		u.LastUsage = time.UnixMicro(u.last).UTC().Format(time.RFC3339)
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b *keyUser) int {
		return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(a.who(), b.who()))
	})
	return all, nil
}

// countUsers counts records by who called, and names those that are registered.
func countUsers(sh *shell, c *client.Client, f *audit.Filter) (map[string]*keyUser, error) {
	users := map[string]*keyUser{}
	err := eachFound(c, f, sh.meter("records"), func(r *audit.Record) error {
		credential := ""
		if r.Credential != [32]byte{} {
			credential = "sha256:" + hex.EncodeToString(r.Credential[:])
		}
		u := users[r.Principal+credential]
		if u == nil {
			u = &keyUser{Principal: r.Principal, Credential: credential}
			users[r.Principal+credential] = u
		}
		u.Uses, u.last = u.Uses+1, max(u.last, r.Time)
		return nil
	})
	if err != nil || len(users) == 0 {
		return users, err
	}
	names := map[string]string{}
	err = eachPrincipal(c, func(p applianceapi.Principal) error { names[p.KeyHash] = p.Name; return nil })
	for _, u := range users {
		u.Name = names[u.Credential]
	}
	return users, err
}

// usingOps returns the numbers of the operations that use a key.
func usingOps() (numbers []uint16) {
	for _, op := range table.All() {
		if op.Service == api.KMS && kmsapi.UsageOperation(0).Names().Value(op.Name) != 0 {
			numbers = append(numbers, op.Number)
		}
	}
	return numbers
}

// userRows is what people read of the users of the last days, or of why they are not known.
func (n *need) userRows(days int64) (rows [][2]string) {
	label := fmt.Sprintf("last %d days", days)
	switch {
	case n.NotAsked != "":
		return [][2]string{{label, n.NotAsked}}
	case len(n.Users) == 0:
		return [][2]string{{label, "used by nobody"}}
	}
	for _, u := range n.Users {
		rows = append(rows, [2]string{label, fmt.Sprintf("used by %s ×%d, at last on %s", u.who(), u.Uses, u.LastUsage)})
		label = ""
	}
	return rows
}
