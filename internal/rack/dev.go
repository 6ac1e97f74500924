package rack

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/domain"
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

var (
	// ErrNotDev says that a folder is not one that [Dev] made, or that another appliance is in it.
	ErrNotDev = errors.New("rack: not a folder of an appliance for development")

	// ErrDev says that a folder is [Dev]'s: what is made there would be removed with it.
	ErrDev = errors.New("rack: the folder is that of an appliance for development")
)

// Dev starts an appliance for development in cfg.Dir, on loopback: a soft token,
// memory that need not be locked, and one client, the root of an account, whose key
// stands in the folder. What is there already is used, so that keys and client
// survive; what is not is made. Of cfg it takes Dir, Listen, Locked, Version and
// Logger. env is what clients need to reach it, as NAME=value in a fixed order; a
// locked one has no address. The caller closes the appliance.
func Dev(ctx context.Context, cfg Config) (a *Appliance, env []string, err error) {
	if cfg.id, err = markDev(cfg.Dir); err != nil {
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

// markDev makes the folder and marks an empty one with the id of the appliance that is to be there. Any other must
// have the mark. It returns that id.
func markDev(dir string) (id api.KeyID, err error) {
	if err := judgePath(dir); err != nil {
		return id, err
	}
	if err := makeFolder(dir); err != nil {
		return id, err
	}
	if err := judgeFolder(dir); err != nil { // the client's key is written before the folder is locked
		return id, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return id, err
	}
	if len(entries) > 0 {
		id, err = readMark(dir)
		if err != nil || id != (api.KeyID{}) {
			return id, err
		}
		if _, err := os.Lstat(filepath.Join(dir, storeName)); !errors.Is(err, fs.ErrNotExist) {
			return id, errors.Join(notDev(dir), err)
		}
	}
	id = newID() // also where a cut has left half a mark
	return id, os.WriteFile(filepath.Join(dir, devName), fmt.Appendf(nil, devMark, id), 0o600)
}

// devMark is what the mark says, with the appliance's id.
const devMark = "keyrack dev made this folder for appliance %s, and keyrack dev reset removes it\n"

// readMark returns the appliance that a folder of [Dev] is for, the zero id where the mark is none that this
// version has written whole.
func readMark(dir string) (id api.KeyID, err error) {
	f, err := os.OpenFile(filepath.Join(dir, devName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return id, notDev(dir)
	}
	if err != nil {
		return id, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2*int64(len(devMark))))
	return parseMark(b), err
}

// parseMark returns the id in a mark, the zero id for anything but a whole one.
func parseMark(mark []byte) (id api.KeyID) {
	head, tail, _ := strings.Cut(devMark, "%s")
	text := strings.TrimSuffix(strings.TrimPrefix(string(mark), head), tail)
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != len(id) {
		return id
	}
	if id = api.KeyID(b); string(mark) != fmt.Sprintf(devMark, id) {
		return api.KeyID{}
	}
	return id
}

func notDev(dir string) error { return fmt.Errorf("%w: %s", ErrNotDev, dir) }

// refuseDev keeps an appliance that is to stay out of a folder that `keyrack dev reset` would remove.
func (c *Config) refuseDev() error {
	_, err := os.Lstat(filepath.Join(c.Dir, devName))
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && c.id != (api.KeyID{}):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: %s", ErrDev, c.Dir)
}

// judgeDev refuses a folder, which is locked, whose appliance is not the one that its mark names. Where none is in it,
// nothing can be lost.
func judgeDev(dir string) error {
	id, err := readMark(dir)
	if err != nil {
		return err
	}
	s, err := (&Config{Dir: dir}).openStore()
	if errors.Is(err, ErrNone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", notDev(dir), err)
	}
	keyring, err := domain.Open(context.Background(), s, nil) // reads only
	if err == nil && keyring.ApplianceID() != id {
		err = errors.New("another appliance is in it")
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", notDev(dir), err)
	}
	return errors.Join(err, s.Close())
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
// to it. Where there is none, there is nothing to do. It returns ErrNotDev, also where the
// appliance in it is not the one that Dev has made, or ErrInUse while one runs there.
func DevReset(dir string) error {
	folder, err := filepath.EvalSymlinks(dir) // or the link alone would go
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = readMark(folder) // before a file is made there
	}
	if err != nil {
		return err
	}
	lock, err := lockFolder(folder)
	if err != nil {
		return err
	}
	if err = judgeDev(folder); err == nil {
		err = emptyDev(folder)
	}
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
