package rack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol/client"
)

// EnvAuditDir is the name of the environment variable that tells `keyrack audit
// verify` where a log is, the path of its folder. Who signs it is in [client.EnvAuditKey].
const EnvAuditDir = "KEYRACK_AUDIT_DIR"

// devAccount is the one account of an appliance for development: the account id
// of AWS's own examples.
var devAccount = api.AccountID([]byte("111122223333"))

// devName is the file that says that a folder is Dev's, to make and to remove.
const devName = "development"

// ErrNotDev says that a folder is not one that [Dev] made.
var ErrNotDev = errors.New("rack: not a folder of an appliance for development")

// Dev starts an appliance for development in cfg.Dir, on loopback: a soft token,
// memory that need not be locked, and one client, the root of an account, whose key
// stands in the folder. What is there already is used, so that keys and client
// survive; what is not is made. Of cfg it takes Dir, Listen, Locked, Version and
// Logger. env is what clients need to reach it, as NAME=value in a fixed order; a
// locked one has no address. The caller closes the appliance.
func Dev(ctx context.Context, cfg Config) (a *Appliance, env []string, err error) {
	if err := markDev(cfg.Dir); err != nil {
		return nil, nil, err
	}
	hash, cert, key, err := devClient(cfg.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("make the client's key: %w", err)
	}
	create, open, err := ParseToken("soft", cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	cfg.Realm = api.Realm{Partition: "aws", Region: "rack-1"}
	cfg.AllowUnlockedMemory, cfg.AuditBytes, cfg.Token = true, 16<<20, create
	cfg.Principals = []*identity.Principal{{ARN: cfg.Realm.RootARN(devAccount), Type: identity.Root, Account: devAccount, Credential: hash}}
	if _, err := Create(ctx, cfg); err != nil && !errors.Is(err, ErrExists) {
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
		EnvAuditDir + "=" + filepath.Join(cfg.Dir, auditName),
		client.EnvAuditKey + "=" + a.AuditKey(),
	}, nil
}

// markDev makes the folder and marks an empty one. Any other must have the mark.
func markDev(dir string) error {
	if err := judgePath(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := judgeFolder(dir); err != nil { // the client's key is written before the folder is locked
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return isDev(dir)
	}
	return os.WriteFile(filepath.Join(dir, devName), []byte("keyrack dev made this folder, and keyrack dev reset removes it\n"), 0o600)
}

func isDev(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, devName))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotDev, dir)
	}
	return err
}

// devClient returns the client of the folder; half of one, which a cut has left,
// is made anew.
func devClient(dir string) (hash identity.KeyHash, certPath, keyPath string, err error) {
	const name = "client"
	certPath, keyPath = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err == nil {
		return identity.HashOf(cert.Leaf.RawSubjectPublicKeyInfo), certPath, keyPath, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return hash, "", "", err
	}
	for _, path := range []string{certPath, keyPath} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return hash, "", "", err
		}
	}
	return NewClient(dir, name)
}

// DevReset removes a folder of [Dev] with all that is in it, also where dir is a link
// to it. Where there is none, there is nothing to do. It returns ErrNotDev, or ErrInUse
// while an appliance runs there.
func DevReset(dir string) error {
	folder, err := filepath.EvalSymlinks(dir) // or the link alone would go
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = isDev(folder)
	}
	if err != nil {
		return err
	}
	lock, err := lockFolder(folder)
	if err != nil {
		return err
	}
	err = emptyDev(folder)
	if err == nil {
		err = os.RemoveAll(dir) // the link, if it is one
	}
	return errors.Join(err, lock.Close())
}

// emptyDev removes a folder, last of all what lets a reset that was cut off be begun
// again, and keeps others out.
func emptyDev(folder string) error {
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if name := e.Name(); err == nil && name != devName && name != lockName {
			err = os.RemoveAll(filepath.Join(folder, name))
		}
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(folder)
}
