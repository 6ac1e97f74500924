package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/settings"
	pools "github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol/client"
)

// allSettings is everything that can be set. Flags, environment variables, the keys of the
// settings file and what help says of them are made of it and of nothing else.
var allSettings = settings.Table{
	{Name: "appliance.dir", Kind: settings.Path, Value: "DIR", Doc: "the appliance's data folder"},
	{Name: "appliance.token", Value: "SPEC", Default: "soft", Valid: validToken, Discreet: true, Rebase: rebaseToken,
		Doc: "the token that holds the root: tpm2 is this machine's TPM, tpm2:path=PATH;pin-file=FILE another, or one with a PIN; " +
			"pkcs11:module=PATH;token=LABEL;pin-file=FILE one behind a vendor's PKCS#11 library; with pin-ask=yes keyrack init and keyrack unlock ask for the PIN; " +
			"soft is a file in the data folder, soft:PATH one elsewhere, both for development"},
	{Name: "appliance.listen", Value: "HOST:PORT", Default: api.DefaultListen, Valid: checkListen,
		Doc: "where clients reach the appliance; port 0 is any free one, kept while serve runs"},
	{Name: "appliance.locked", Kind: settings.Bool, Default: "false", Doc: "start locked, and wait for keyrack unlock"},

	count("limits.max-connections", api.MaxConnections, 1<<20, "connections open at once from the network, handshakes included"),
	count("limits.max-connections-per-client", api.MaxConnsPrincipal, 1<<20, "connections open at once of one client key"),
	count("limits.max-connections-operator", api.MaxConnsOperator, 1<<16, "connections open at once on the Unix socket, besides the others"),
	count("limits.max-handshakes", api.MaxHandshakes, 1<<16, "connections open at once that have not said who they are"),
	count("limits.max-principals", api.MaxPrincipals, 1<<20, "clients that can be registered; all are kept in memory"),
	count("limits.max-keys-per-account", api.MaxKeys, 1<<30, "keys of one account, those that wait for deletion included"),
	count("limits.requests-per-second", api.RequestsPerSecond, 1<<30, "requests of one account; beyond it they are throttled"),
	count("limits.window", api.Window, 1<<16, "requests of one connection that are not answered yet"),
	{Name: "limits.window-size", Kind: settings.Size, Min: 64 << 10, Max: 1 << 30, Default: settings.SizeText(api.WindowBytes),
		Doc: "replies of one connection that the client has not taken yet; beyond it no request is read"},
	span("limits.handshake-timeout", settings.TimeText(api.HandshakeTimeout), "from accepting a connection to the end of its TLS handshake"),
	span("limits.frame-timeout", settings.TimeText(api.FrameTimeout), "from a request's first byte to its last"),
	span("limits.write-timeout", settings.TimeText(api.WriteTimeout), "for one write of replies"),
	span("limits.idle-timeout", settings.TimeText(api.IdleTimeout), "without a whole request, until a connection is ended"),

	count("cache.cached-keys", api.CachedKeys, 1<<24, "keys whose material is kept in memory, as far as a quarter of the memory that may be locked holds them"),
	count("cache.packed-keys", api.PackedKeys, 1<<28, "keys kept sealed in memory besides those, 140 bytes each once they were used"),
	count("cache.cached-aliases", api.CachedAliases, 1<<24, "aliases whose keys are kept in memory"),

	count("workers.store-workers", api.StoreWorkers, pools.MaxWorkers, "jobs that wait for the store at once"),
	count("workers.store-queue", api.StoreQueue, pools.MaxQueue, "jobs that may wait for a store worker; more are throttled"),
	count("workers.token-workers", api.TokenWorkers, pools.MaxWorkers, "jobs that wait for the token at once"),
	count("workers.token-queue", api.TokenQueue, pools.MaxQueue, "jobs that may wait for a token worker; more are throttled"),
	count("workers.compute-workers", 1, pools.MaxWorkers, "jobs that compute long at once"),
	count("workers.compute-queue", api.ComputeQueue, pools.MaxQueue, "jobs that may wait for a compute worker; more are throttled"),
	count("workers.generate-workers", 1, pools.MaxWorkers, "RSA keys that are made at once"),
	count("workers.generate-queue", api.GenerateQueue, pools.MaxQueue, "RSA keys that may wait to be made; more are throttled"),

	{Name: "audit.audit-segment", Kind: settings.Size, Min: audit.MinSegment, Max: audit.MaxSegment, Step: audit.SegmentStep,
		Default: settings.SizeText(audit.DefaultSegment), Doc: "the size of one file of the audit log; the two behind the one in use are made ahead"},
	{Name: "audit.audit-durability", Kind: settings.Choice, Choices: []string{audit.Synced.String(), audit.Written.String()}, Default: audit.Synced.String(),
		Doc: "what a record must be before its answer leaves: synced to the disk, or written to the kernel, which loses seconds when the power goes"},

	{Name: "client.addr", Env: client.EnvAddr, Value: "HOST:PORT", Doc: "the appliance's address"},
	{Name: "client.server-key", Env: client.EnvServerKey, Value: "sha256:HEX", Doc: "the appliance's server key, as keyrack init and keyrack status print it"},
	{Name: "client.cert", Kind: settings.Path, Env: client.EnvCert, Doc: "the client's certificate, PEM"},
	{Name: "client.key", Kind: settings.Path, Flag: "client-key", Env: client.EnvKey, Doc: "the file of the certificate's private key, PEM"},
	{Name: "client.audit-key", Env: client.EnvAuditKey, Value: "VKEY", Doc: "the appliance's audit key: the client then checks the log's checkpoints, and audit verify the log"},
	{Name: "client.audit-dir", Kind: settings.Path, Env: rack.EnvAuditDir, Value: "DIR", Doc: "the folder of the audit log that audit verify reads"},
	{Name: "client.socket", Kind: settings.Path, Env: client.EnvSocket, Value: "PATH", Doc: "the appliance's Unix socket, for its operator"},
	{Name: "client.output", Kind: settings.Choice, Choices: []string{string(asText), string(asJSON)}, Default: string(asText), Value: "FORMAT",
		Doc: "how commands print: text for people, json for programs"},
}

// count is the row of a number that bounds what is in use at once.
func count(name string, normal, most int64, doc string) settings.Setting {
	return settings.Setting{Name: name, Kind: settings.Number, Min: 1, Max: most, Default: strconv.FormatInt(normal, 10), Doc: doc}
}

// span is the row of a time that a peer may take.
func span(name, normal, doc string) settings.Setting {
	return settings.Setting{Name: name, Kind: settings.Time, Min: 1e9, Max: 24 * 3600e9, Default: normal, Doc: doc}
}

// checkListen refuses what no address can be made of; a host is looked up later.
func checkListen(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil && port == "" {
		err = errors.New("missing port in address")
	}
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("want HOST:PORT, such as %s: %w", api.DefaultListen, err)
	}
	return nil
}

// validToken refuses what names no token.
func validToken(spec string) error {
	if _, _, err := rack.ParseToken(spec, "."); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), rack.ErrToken.Error()+": "))
	}
	return nil
}

// rebaseToken makes the path of a soft token one of the file's folder; those of other tokens are absolute.
func rebaseToken(spec, dir string) string {
	kind, path, named := strings.Cut(spec, ":")
	if kind != "soft" || !named || filepath.IsAbs(path) {
		return spec
	}
	return kind + ":" + filepath.Join(dir, path)
}
