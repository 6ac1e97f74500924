package rack

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol/client"
)

// Names of the environment variables that tell `keyrack audit verify` where a
// log is and who signs it.
const (
	EnvAuditDir = "KEYRACK_AUDIT_DIR" // path of the log's folder
	EnvAuditKey = "KEYRACK_AUDIT_KEY" // verifier key of its checkpoints (C2SP signed-note)
)

// devAccount is the one account of a throw-away appliance: the account id of
// AWS's own examples.
var devAccount = api.AccountID([]byte("111122223333"))

// Dev starts a throw-away appliance on loopback and a free port: a new soft
// token and all files in dir, which must exist and be empty, keys in memory
// only, memory that need not be locked. Its one client is the root of an account,
// with a new key in dir. env is what clients need to reach it, as NAME=value in a
// fixed order. The caller closes the appliance and removes dir. Development only.
func Dev(ctx context.Context, dir, version string, logger *slog.Logger) (a *Appliance, env []string, err error) {
	hash, cert, key, err := NewClient(dir, "client")
	if err != nil {
		return nil, nil, fmt.Errorf("make the client's key: %w", err)
	}
	create, open, err := ParseToken("soft", dir)
	if err != nil {
		return nil, nil, err
	}
	realm := api.Realm{Partition: "aws", Region: "rack-1"}
	cfg := Config{
		Dir: dir, Realm: realm, Version: version, Logger: logger, AllowUnlockedMemory: true, AuditBytes: 16 << 20, Token: create,
		Principals: []*identity.Principal{{ARN: realm.RootARN(devAccount), Type: identity.Root, Account: devAccount, Credential: hash}},
	}
	if _, err := Create(ctx, cfg); err != nil {
		return nil, nil, err
	}
	cfg.Token = open
	if a, err = Start(ctx, cfg); err != nil {
		return nil, nil, err
	}
	return a, []string{
		client.EnvAddr + "=" + a.Addr(),
		client.EnvServerKey + "=" + a.ServerKey(),
		client.EnvCert + "=" + cert,
		client.EnvKey + "=" + key,
		client.EnvSocket + "=" + a.Socket(),
		EnvAuditDir + "=" + filepath.Join(dir, "audit"),
		EnvAuditKey + "=" + a.AuditKey(),
	}, nil
}
