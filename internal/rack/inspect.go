package rack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	"github.com/keyrack/keyrack/hsm/soft"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

// TokenReport is what a token tells of itself without a PIN. What it does not tell is absent.
type TokenReport struct {
	Spec     string   `json:",omitempty"` // what --token takes
	Kind     string   // soft, tpm2 or pkcs11
	Model    string   `json:",omitempty"`
	Serial   string   `json:",omitempty"` // absent for a TPM that has no storage root key yet
	Keys     []string `json:",omitempty"` // that it makes
	SelfTest string   `json:",omitempty"` // passed or failed
	PIN      string   `json:",omitempty"` // one sentence
	Room     string   `json:",omitempty"` // one sentence
	Warning  string   `json:",omitempty"`
	Error    string   `json:",omitempty"` // why no more is known
}

// ScanModule is the command with which this binary starts itself once more to ask a PKCS#11 module for its tokens: a library that
// crashes or hangs is then not in the process that asks. Its argument is that of [Scan].
const ScanModule = "token-scan"

// scanPatience is how long a module may take.
const scanPatience = 30 * time.Second

// scanned is what that process prints, as its last line.
type scanned struct {
	Tokens []pkcs11.Report
	Error  string
	Kind   int // 1 and up: place in tokenErrors; 0 = something else
}

// moduleNames are where Debian's packages put PKCS#11 modules of tokens, in /usr/lib or a folder of the machine's kind in it.
var moduleNames = []string{
	"softhsm/libsofthsm2.so", "opensc-pkcs11.so", "libykcs11.so.2", "libtpm2_pkcs11.so.1", "pkcs11/yubihsm_pkcs11.so",
}

// KnownModules returns the PKCS#11 modules that are where Debian's packages put them.
func KnownModules() (all []string) {
	for _, name := range moduleNames {
		for _, pattern := range []string{"/usr/lib/", "/usr/lib/*-linux-gnu/"} {
			found, _ := filepath.Glob(pattern + name) // the patterns are well formed
			for _, path := range found {
				if real, err := filepath.EvalSymlinks(path); err == nil && real == path {
					all = append(all, path)
				}
			}
		}
	}
	return all
}

// TPMNodes returns the resource managers' nodes in a folder, which is /dev but in tests.
func TPMNodes(dev string) []string {
	nodes, _ := filepath.Glob(filepath.Join(dev, "tpmrm*")) // the pattern is well formed
	return nodes
}

// FindTokens asks the TPMs at nodes and the tokens of PKCS#11 modules what they are. It changes nothing and spends no try of a PIN. What cannot be
// asked is in the list with its error.
func FindTokens(ctx context.Context, nodes, modules []string) (all []TokenReport) {
	for _, node := range nodes {
		spec := "tpm2"
		if node != tpm2.DefaultPath {
			spec += ":path=" + node
		}
		r, err := inspectTPM(ctx, tpm2.Config{Path: node})
		if r.Spec = spec; err != nil {
			r.Error = err.Error()
		}
		all = append(all, r)
	}
	for _, module := range modules {
		tokens, err := scan(ctx, module)
		if err != nil {
			all = append(all, TokenReport{Kind: "pkcs11", Spec: "pkcs11:module=" + escape(module), Error: err.Error()})
		}
		for i := range tokens {
			r := reportOf(&tokens[i])
			r.Spec = "pkcs11:module=" + escape(module) + ";token=" + escape(tokens[i].Label)
			if tokens[i].NeedsPIN {
				r.Spec += ";" + pinAsk
			}
			all = append(all, r)
		}
	}
	return all
}

// escape writes a value as a specification has it, such that a shell can be given it between single quotes: a token chooses its label.
func escape(value string) string {
	return strings.NewReplacer("%", "%25", ";", "%3B", "'", "%27").Replace(value)
}

// InspectToken asks the token of a specification what it is, likewise.
func InspectToken(ctx context.Context, spec, dir string) (r TokenReport, err error) {
	if _, _, err := ParseToken(spec, dir); err != nil {
		return r, err
	}
	kind, rest, _ := strings.Cut(spec, ":")
	attributes, _ := splitAsk(rest)
	switch kind {
	case "tpm2":
		cfg, err := tpm2.ParseConfig(attributes)
		if err != nil {
			return r, err
		}
		return inspectTPM(ctx, cfg)
	case "pkcs11":
		cfg, err := pkcs11Config(attributes, dir)
		if err != nil {
			return r, err
		}
		return inspectPKCS11(ctx, cfg)
	}
	if rest == "" {
		rest = filepath.Join(dir, tokenName)
	}
	t, err := soft.Open(rest)
	if err != nil {
		return r, err
	}
	return described(t.Describe()), t.Close()
}

// described begins a report.
func described(d hsm.Description) TokenReport {
	r := TokenReport{Kind: d.Kind, Model: d.Model, Serial: d.Serial, Warning: d.Warning}
	for _, s := range d.Specs {
		r.Keys = append(r.Keys, s.String())
	}
	return r
}

func inspectTPM(ctx context.Context, cfg tpm2.Config) (TokenReport, error) {
	found, err := tpm2.Inspect(ctx, cfg)
	if err != nil {
		return TokenReport{Kind: "tpm2"}, err
	}
	r := described(found.Description)
	r.SelfTest = "passed"
	r.PIN = fmt.Sprintf("%d of %d wrong tries are used up, for all that uses this TPM; one is given back every %v", found.WrongTries, found.MaxTries, found.GivenBack)
	if found.Locked {
		r.PIN = "locked against guessing: " + r.PIN
	}
	r.Room = fmt.Sprintf("%d more counters, of which an appliance has three and a fourth while it rotates; %d more persistent keys", found.FreeCounters, found.FreePersistent)
	return r, nil
}

func inspectPKCS11(ctx context.Context, cfg pkcs11.Config) (r TokenReport, err error) {
	tokens, err := scan(ctx, cfg.Module)
	if err != nil {
		return r, err
	}
	var fit []*pkcs11.Report
	for i := range tokens {
		if t := &tokens[i]; (cfg.Label == "" || cfg.Label == t.Label) && (cfg.Serial == "" || cfg.Serial == t.Serial) {
			fit = append(fit, t)
		}
	}
	if len(fit) != 1 {
		return r, fmt.Errorf("%w: %d of the %d tokens of %s fit", ErrTokenMissing, len(fit), len(tokens), cfg.Module)
	}
	return reportOf(fit[0]), nil
}

// reportOf says what a PKCS#11 token tells.
func reportOf(t *pkcs11.Report) TokenReport {
	r := described(t.Description)
	if t.SelfTestFailed {
		r.SelfTest = "failed"
	}
	switch {
	case t.PINLocked:
		r.PIN = "locked"
	case t.NoPIN:
		r.PIN = "the user has none yet"
	case t.FinalTry:
		r.PIN = "one wrong PIN more locks it"
	case t.WrongPIN:
		r.PIN = "a wrong one was tried since the last right one; the token does not tell how many more it takes"
	case t.NeedsPIN:
		r.PIN = "needed; no wrong one was tried since the last right one"
	default:
		r.PIN = "not needed"
	}
	if t.FreeBytes > 0 {
		r.Room = fmt.Sprintf("%d bytes for private objects", t.FreeBytes)
	}
	return r
}

// scan asks a module for its tokens, in a process of its own.
func scan(ctx context.Context, module string) ([]pkcs11.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, scanPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", ScanModule, module)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "GOTRACEBACK=none")
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %s", ErrTokenSilent, module)
	case err != nil:
		return nil, fmt.Errorf("%w: asking %s for its tokens: %w", ErrTokenModule, module, err)
	}
	out = bytes.TrimSpace(out)
	var s scanned
	if err := json.Unmarshal(out[bytes.LastIndexByte(out, '\n')+1:], &s); err != nil { // the library may have printed before
		return nil, fmt.Errorf("%w: %s", ErrTokenReply, module)
	}
	if s.Error == "" {
		return s.Tokens, nil
	}
	told := &toldError{text: s.Error}
	if known := tokenErrors(); s.Kind >= 1 && s.Kind <= len(known) {
		told.is = known[s.Kind-1]
	}
	return nil, told
}

// Scan prints the tokens of a module for the process that has started this one.
func Scan(ctx context.Context, module string) error {
	tokens, err := pkcs11.List(ctx, module)
	s := scanned{Tokens: tokens}
	if err != nil {
		s.Error = err.Error()
		for i, known := range tokenErrors() {
			if errors.Is(err, known) {
				s.Kind = i + 1
				break
			}
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(append([]byte{'\n'}, b...), '\n'))
	return err
}
