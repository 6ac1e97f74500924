package main

import (
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/internal/settings"
)

// callCommand is made when asked for: its help leads back to the table.
func callCommand() command {
	return command{
		name: "call", args: "SERVICE OPERATION [--MEMBER VALUE]… [--json FILE]", short: "any operation of the appliance, by its name",
		examples: []string{
			"keyrack call kms DescribeKey --key-id alias/mail",
			"keyrack call kms Encrypt --json request.json --output json",
		},
		long: callLong(), flags: callFlags, own: true,
	}
}

// callFlags declares nothing: which flags there are depends on the operation.
func callFlags(*flag.FlagSet) action { return callOperation }

// callLong returns the help: the operations come from the table.
func callLong() string {
	var b strings.Builder
	b.WriteString(`
Calls an operation with AWS's names, and prints the members of the answer, one a
line, or as JSON. keyrack help call SERVICE OPERATION lists the members of a
request. A list takes its flag several times, an encryption context K=V, a
structure JSON. Bytes are base64, or @FILE, fileb://FILE or @- for standard
input; secret bytes only the latter. A time is 2027-01-31T12:00:00Z (RFC 3339), a date
such as 2027-01-31, its first moment in UTC, or a number of seconds since 1970. An
answer with secret bytes goes to a file or a pipe, not to a terminal.

Operations:
`)
	for _, op := range table.All() {
		note := ""
		if slices.Contains(refusedOperations, op.Name) {
			note = " (always refused)"
		}
		fmt.Fprintf(&b, "  %s %s%s\n", op.Service.Name, op.Name, note)
	}
	return b.String()
}

// What an appliance always refuses: it has no custom key store, no other region, no grants
// and nobody who attests an enclave. It answers that itself; help marks them.
var (
	refusedOperations = []string{
		"CreateCustomKeyStore", "UpdateCustomKeyStore", "DeleteCustomKeyStore", "ConnectCustomKeyStore", "DisconnectCustomKeyStore",
		"ReplicateKey", "UpdatePrimaryRegion",
	}
	refusedMembers = []string{"CustomKeyStoreId", "XksKeyId", "Recipient", "GrantTokens"}
)

// request collects what the command line says of a request. Flags are applied
// when all are known, so that those of single members win over --json wherever
// they stand.
type request struct {
	sh     *shell
	op     *api.Op
	in     any
	file   string // of --json
	given  []func() error
	format *format
}

// findOperation returns the operation that args begin with.
func findOperation(args []string) (*api.Op, error) {
	if len(args) < 2 {
		return nil, usagef("keyrack help call", "call: a service and an operation are needed")
	}
	if op := table.ByName(args[0], args[1]); op != nil {
		return op, nil
	}
	return nil, misused(didYouMean(nearOperation(args[0], args[1]), "keyrack help call"), "call: there is no operation %s of a service %s; names are AWS's, in AWS's spelling", args[1], args[0])
}

// nearOperation returns the call that was probably meant, "" if there is none: also where
// the operation is written as the AWS command line does, get-public-key.
func nearOperation(service, typed string) string {
	var all []string
	for _, c := range operationWords([]string{service}) {
		if strings.EqualFold(c.word, strings.ReplaceAll(typed, "-", "")) {
			return "keyrack call " + service + " " + c.word
		}
		all = append(all, c.word)
	}
	if near := settings.Nearest(typed, all); near != "" {
		return "keyrack call " + service + " " + near
	}
	return ""
}

// callOperation calls the operation that args name.
func callOperation(sh *shell, args, _ []string) error {
	if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
		return help(sh, []string{"call"}, nil)
	}
	op, err := findOperation(args)
	if err != nil {
		return err
	}
	r := &request{sh: sh, op: op, in: op.NewIn()}
	fs := r.flags()
	words, rest, err := parse(fs, args[2:])
	if err == nil {
		err = sh.resolve(fs)
	}
	switch words = append(words, rest...); {
	case errors.Is(err, flag.ErrHelp):
		return callHelp(sh, args[:2])
	case err != nil:
		return err
	case len(words) > 0:
		return usagef("keyrack help "+fs.Name(), "call: unexpected argument %q", words[0])
	}
	if err := r.fill(); err != nil {
		return err
	}
	return r.send()
}

// flags declares a flag for each member of the request.
func (r *request) flags() *flag.FlagSet {
	fs := newFlags("call " + r.op.Service.Name + " " + r.op.Name)
	for i := range r.op.In.Fields {
		f := &r.op.In.Fields[i]
		set := func(value string) error {
			r.given = append(r.given, func() error { return r.set(f, value) })
			return nil
		}
		if f.Shape == api.ShapeBool {
			fs.BoolFunc(f.Flag, memberUsage(f), set)
		} else {
			fs.Func(f.Flag, memberUsage(f), set)
		}
	}
	fs.StringVar(&r.file, "json", "", "read members from `FILE`, a JSON object with AWS's names; - is standard input; flags win over it")
	r.format = outputFlag(fs)
	takeSettings(fs, connection...)
	takeFile(fs)
	return fs
}

// fill makes the request of what was given. Whether it is complete the
// appliance decides: it has the rules that span members, and the words for them.
func (r *request) fill() error {
	if r.file != "" {
		b, err := r.sh.readAll(r.file)
		if err != nil {
			return fmt.Errorf("--json: %w", err)
		}
		if err := r.op.In.DecodeJSON(b, r.in, api.Partial); err != nil {
			return hinted(fmt.Sprintf("give a JSON object with AWS's names: keyrack help call %s %s lists them", r.op.Service.Name, r.op.Name), "--json: %w", err)
		}
	}
	for _, set := range r.given {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

// set stores one flag's value.
func (r *request) set(f *api.Field, value string) error {
	if !f.Bytes() {
		return f.SetText(r.in, value)
	}
	b, err := r.bytes(f, value)
	if err != nil {
		return fmt.Errorf("--%s: %w", f.Flag, err)
	}
	return f.SetBytes(r.in, b)
}

// bytes returns what a flag for bytes names. Secrets do not stand on command
// lines: every user of the machine can see those.
func (r *request) bytes(f *api.Field, value string) ([]byte, error) {
	for _, prefix := range []string{"@", "fileb://"} {
		if path, ok := strings.CutPrefix(value, prefix); ok {
			return r.sh.readAll(path)
		}
	}
	if secret(f) {
		return nil, misused("give it as @FILE, or @- for standard input", "a secret is not taken from the command line, where others can read it")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, misused("give it in base64, as @FILE, or as @- for standard input", "the value is not base64")
	}
	return b, nil
}

// secret reports whether a member, or an item of it, must not be seen.
func secret(f *api.Field) bool {
	return f.Shape == api.ShapeSecret || f.Shape == api.ShapeList && f.Elem.Shape == api.ShapeSecret
}

// hasSecret reports whether an answer may hold what must not be seen.
func hasSecret(s *api.Struct) bool {
	return slices.ContainsFunc(s.Fields, func(f api.Field) bool {
		return secret(&f) || f.Shape == api.ShapeStruct && hasSecret(f.Struct)
	})
}

// readAll reads a whole file that must fit a request.
func (sh *shell) readAll(path string) ([]byte, error) {
	b, err := sh.readInput(path, api.MaxRequestFrame)
	if err == nil && len(b) > api.MaxRequestFrame {
		return nil, hinted("send less in one request", "%s is larger than any request, %d bytes", path, api.MaxRequestFrame)
	}
	return b, err
}

// send calls the operation and prints the answer: all of it, a plaintext too, as it
// is what was asked for, but not to a terminal. Whether there will be one is known
// before the call.
func (r *request) send() error {
	if hasSecret(r.op.Out) && isTerminal(r.sh.out) {
		return misused("give it a file or a pipe", "the answer has secret bytes, and standard output is a terminal")
	}
	c, err := r.sh.dial(r.op.Service)
	if err != nil {
		return err
	}
	defer c.Close()
	out := r.op.NewOut()
	if err := callAny(c, r.op, r.in, out); err != nil {
		return err
	}
	response := responseJSON(r.op, out)
	rows, err := flatten(response)
	if err != nil {
		return err
	}
	return r.format.print(r.sh.out, response, columns(rows))
}

// callHelp prints the members of a request.
func callHelp(sh *shell, words []string) error {
	op, err := findOperation(words)
	if err != nil {
		return err
	}
	r := &request{op: op, in: op.NewIn()}
	fs := r.flags()
	var b strings.Builder
	fmt.Fprintf(&b, "usage: keyrack %s [--MEMBER VALUE]… [--json FILE]\n", fs.Name())
	writeFlags(&b, fs)
	_, err = io.WriteString(sh.out, b.String())
	return err
}

// memberUsage says in words what a member takes; the word in back quotes
// becomes the value's name.
func memberUsage(f *api.Field) string {
	usage := f.Name
	if f.Shape != api.ShapeBool {
		usage += ", `" + valueName(f) + "`"
	}
	if f.Required {
		usage += ", required"
	}
	if slices.Contains(refusedMembers, f.Name) {
		usage += ", always refused"
	}
	if f.Shape == api.ShapeList || f.Shape == api.ShapeContext {
		usage += ", " + repeatable
	}
	if f.Shape == api.ShapeList {
		f = f.Elem
	}
	if f.Shape == api.ShapeTime {
		usage += ": 2027-01-31T12:00:00Z, 2027-01-31, or seconds since 1970"
	}
	if len(f.Names) > 0 {
		usage += ": " + namesText(f.Names)
	}
	return usage
}

// valueName says what to write behind a flag.
func valueName(f *api.Field) string {
	if f.Shape == api.ShapeList {
		f = f.Elem
	}
	switch f.Shape {
	case api.ShapeSecret:
		return "@FILE"
	case api.ShapeBlob:
		return "BASE64|@FILE"
	case api.ShapeInt:
		return "NUMBER"
	case api.ShapeTime:
		return "TIME"
	case api.ShapeEnum:
		return "NAME"
	case api.ShapeContext:
		return "K=V"
	case api.ShapeStruct:
		return "JSON"
	case api.ShapeKeyRef:
		return "KEY"
	}
	return "TEXT"
}
