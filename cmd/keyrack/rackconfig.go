package main

import (
	"path/filepath"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/settings"
	pools "github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol/server"
)

// rackConfig returns the appliance that the settings describe. The token of init may
// be made, that of another command must be there.
func (sh *shell) rackConfig(command string) (cfg rack.Config, err error) {
	v := sh.settings
	dir := v.Text("appliance.dir")
	if dir == "" {
		return cfg, usagef("keyrack help "+command, "%s: --dir is needed", command)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return cfg, err
	}
	makes, opens, err := rack.ParseToken(v.Text("appliance.token"), dir)
	if err != nil {
		return cfg, misused("give --token soft, soft:PATH, tpm2, 'tpm2:path=PATH;pin-file=FILE' or 'pkcs11:module=PATH;token=LABEL;pin-file=FILE' in quotes", "%w", err)
	}
	asked, err := rack.ParseAsked(v.Text("appliance.token"), dir)
	if err != nil {
		return cfg, err
	}
	cfg = rack.Config{
		Dir: dir, AskedToken: asked, Token: opens, Version: version, Logger: serveLogger(sh.err),
		Listen: v.Text("appliance.listen"), Locked: v.Bool("appliance.locked"),
		AuditBytes: v.Int("audit.audit-segment"), Durability: audit.Durability(v.Int("audit.audit-durability")),
		Limits: limitsOf(v), Pools: poolsOf(v), MaxPrincipals: int(v.Int("limits.max-principals")),
		MaxKeys: int(v.Int("limits.max-keys-per-account")), CachedKeys: int(v.Int("cache.cached-keys")), PackedKeys: int(v.Int("cache.packed-keys")), CachedAliases: int(v.Int("cache.cached-aliases")),
	}
	if command == "init" {
		cfg.Token = makes
		if asked != nil {
			cfg.Token = sh.askFor(asked)
		}
	}
	return cfg, nil
}

// limitsOf returns the limits of connections.
func limitsOf(v settings.Values) server.Limits {
	return server.Limits{
		HandshakeTimeout: v.Duration("limits.handshake-timeout"), FrameTimeout: v.Duration("limits.frame-timeout"),
		WriteTimeout: v.Duration("limits.write-timeout"), IdleTimeout: v.Duration("limits.idle-timeout"),
		MaxConnections: int(v.Int("limits.max-connections")), MaxHandshakes: int(v.Int("limits.max-handshakes")),
		MaxConnsPrincipal: int(v.Int("limits.max-connections-per-client")),
		MaxConnsOperator:  int(v.Int("limits.max-connections-operator")),
		RequestsPerSecond: int(v.Int("limits.requests-per-second")),
		Window:            int(v.Int("limits.window")), WindowBytes: int(v.Int("limits.window-size")),
	}
}

// poolsOf returns the sizes of the worker pools.
func poolsOf(v settings.Values) map[pools.Class]pools.Size {
	size := func(class string) pools.Size {
		return pools.Size{Workers: int(v.Int("workers." + class + "-workers")), Queue: int(v.Int("workers." + class + "-queue"))}
	}
	return map[pools.Class]pools.Size{pools.Store: size("store"), pools.Token: size("token"), pools.Compute: size("compute"), pools.Generate: size("generate")}
}
