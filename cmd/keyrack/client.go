package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/protocol/client"
)

// callTimeout bounds one call with all its tries.
const callTimeout = 30 * time.Second

// remote returns a client over TLS as the environment describes it. It does not
// connect yet. What is missing is named here, before client.FromEnv, because what
// to do about it is the command line's business.
func (sh *shell) remote() (*client.Client, error) {
	for _, name := range []string{client.EnvAddr, client.EnvServerKey, client.EnvCert, client.EnvKey} {
		if sh.env(name) == "" {
			return nil, hinted("paste the export lines that keyrack dev or keyrack principal add prints, or run keyrack dev -- COMMAND",
				"environment variable %s is not set", name)
		}
	}
	cfg, err := client.FromEnv(sh.env)
	if err != nil {
		if _, known := knownHint(err); known {
			return nil, err
		}
		return nil, hinted("KEYRACK_CERT and KEYRACK_KEY must be PEM files of one certificate and its key", "%w", err)
	}
	sh.keepNote(&cfg)
	c, err := client.New(cfg)
	if e, ok := errors.AsType[*client.LogError](err); ok { // of the note, before there is a connection
		return nil, hinted("remove "+shellQuote(oneLine(e.File))+", which this client kept of the log: it was damaged, or is another log's", "%w", err)
	}
	if err != nil {
		if _, known := knownHint(err); known {
			return nil, err
		}
		return nil, hinted("correct KEYRACK_ADDR (host:port) and KEYRACK_SERVER_KEY (sha256: and 64 hex digits)", "%w", err)
	}
	sh.remotes = append(sh.remotes, c)
	return c, nil
}

// local returns a client over the operator's Unix socket.
func (sh *shell) local(socket string) (*client.Client, error) {
	if socket == "" {
		socket = sh.socket()
	}
	if socket == "" {
		return nil, hinted("give --dir the appliance's data folder, or set it to the path of its Unix socket, as keyrack dev prints it",
			"environment variable %s is not set", client.EnvSocket)
	}
	return client.New(client.Config{Socket: socket})
}

// socketFlag declares --socket, and --dir, which finds it in a data folder.
func socketFlag(fs *flag.FlagSet) *string {
	socket := new(string)
	set := func(path string) error {
		switch {
		case *socket != "":
			return errors.New("one of --dir and --socket is enough")
		}
		*socket = path
		return nil
	}
	setting(fs, "client.socket", set).alone = true
	setting(fs, "appliance.dir", func(dir string) error { return set(rack.SocketPath(dir)) }).alone = true
	return socket
}

// socket returns the path of the Unix socket where no flag gave it: the setting of it or
// of the data folder, whichever overrides the other; "" if neither is set.
func (sh *shell) socket() string {
	if sh.settings == nil {
		return sh.getenv(client.EnvSocket)
	}
	socket, dir := sh.settings["client.socket"], sh.settings["appliance.dir"]
	if dir.Text != "" && (socket.Text == "" || dir.Source > socket.Source) {
		return rack.SocketPath(dir.Text)
	}
	return socket.Text
}

// dial returns the client for a service: the appliance's own operations go to
// the operator's socket where there is one. A few are every client's.
func (sh *shell) dial(s *api.Service) (*client.Client, error) {
	if s == api.Appliance && (sh.socket() != "" || sh.env(client.EnvAddr) == "") {
		return sh.local("")
	}
	return sh.remote()
}

// call makes one call of an operation and returns its response.
func call[In, Out any](c *client.Client, op api.OpOf[In, Out], in *In) (*Out, error) {
	out := new(Out)
	return out, callAny(c, op.Op, in, out)
}

// callAny makes one call of any operation. What fails before an appliance
// answers, for a reason that no hint is known for, is a server that is not the
// pinned one, or that does not speak our protocol.
func callAny(c *client.Client, op *api.Op, in, out any) error {
	return callFor(c, callTimeout, op, in, out)
}

// callFor is callAny for operations that take their time.
func callFor(c *client.Client, timeout time.Duration, op *api.Op, in, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := c.Call(ctx, op, in, out)
	if forked := checkLog(c); forked != nil {
		return forked
	}
	if _, answered := errors.AsType[*api.Error](err); err == nil || answered {
		return err
	}
	if _, known := knownHint(err); known {
		return err
	}
	return hinted("KEYRACK_SERVER_KEY must be the server key that keyrack status prints on the appliance itself; if it is, something else answers here", "%w", err)
}
