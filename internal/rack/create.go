package rack

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// Identity is what others know an appliance by.
type Identity struct {
	ID        string // UUID
	ServerKey string // sha256: and 64 hex digits
	AuditKey  string // verifier key of the audit log's checkpoints (C2SP signed-note)

	Token hsm.Description `json:"-"`
}

// Create makes an appliance: a root and the log's keys in the token, a domain
// key, an empty store and a server key in the data folder, which it makes if
// need be. Until the last step the folder holds none, so an attempt that was cut
// off is begun anew by the next, which first destroys the keys that it left in the token. The result is not running. It returns ErrExists,
// ErrDev, ErrInUse, or what folder, token and store said.
func Create(ctx context.Context, cfg Config) (Identity, error) {
	cfg = cfg.withDefaults()
	if err := judgePath(cfg.Dir); err != nil { // before anything is made there
		return Identity{}, err
	}
	if err := errors.Join(protectMemory(cfg), makeFolder(cfg.Dir)); err != nil {
		return Identity{}, err
	}
	lock, err := lockFolder(cfg.Dir)
	if err != nil {
		return Identity{}, err
	}
	defer lock.Close()
	if err := cfg.refuseDev(); err != nil {
		return Identity{}, err
	}
	below, adopt, err := cfg.createStore()
	if err != nil {
		return Identity{}, fmt.Errorf("make the store: %w", err)
	}
	made, err := cfg.fill(ctx, below)
	if err != nil {
		if cfg.Store == nil {
			err = errors.Join(err, below.Close())
		}
		return Identity{}, err
	}
	if err := adopt(); err != nil {
		return Identity{}, err
	}
	return made, forgetNotes(cfg.Dir)
}

// fill makes everything that an appliance finds when it starts.
func (c *Config) fill(ctx context.Context, below keystore.Store) (Identity, error) {
	token, err := c.Token(ctx)
	if err != nil {
		return Identity{}, fmt.Errorf("open the token: %w", err)
	}
	defer token.Close()
	if err := mixRandom(ctx, token); err != nil {
		return Identity{}, err
	}
	if c.Store != nil { // it may hold what uses the keys: they are domain's to end
		return c.make(ctx, below, token)
	}
	n := noting{token, c.Dir}
	if err := n.undo(ctx); err != nil {
		return Identity{}, err
	}
	made, err := c.make(ctx, below, n)
	if err != nil {
		return Identity{}, errors.Join(err, n.undo(context.WithoutCancel(ctx)))
	}
	return made, nil
}

// make is fill with an open token.
func (c *Config) make(ctx context.Context, below keystore.Store, token hsm.Provider) (Identity, error) {
	id := c.id
	if id == (api.KeyID{}) {
		id = newID()
	}
	public, err := establish(ctx, below, token, id)
	if err != nil {
		return Identity{}, err
	}
	auditKey, err := tlog.FormatP256(origin(id), public)
	if err != nil {
		return Identity{}, err
	}
	cert, _, err := serverCertificate(c.Dir)
	if err != nil {
		return Identity{}, fmt.Errorf("make the server's key: %w", err)
	}
	return Identity{id.String(), identity.HashOf(cert.Leaf.RawSubjectPublicKeyInfo).String(), auditKey, token.Describe()}, nil
}

// newID draws a UUID of version 4 (RFC 9562 §5.4).
func newID() (id api.KeyID) {
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// establish makes the domain key, the empty sealed store and the audit log's keys, and returns the public half of the
// one that signs.
func establish(ctx context.Context, below keystore.Store, token hsm.Provider, id api.KeyID) (*ecdsa.PublicKey, error) {
	keyring, err := domain.Create(ctx, below, token, id)
	if err != nil {
		return nil, fmt.Errorf("make the domain key: %w", err)
	}
	defer keyring.Lock()
	if err := sealed.Create(ctx, below, keyring, id, id); err != nil {
		return nil, fmt.Errorf("make the sealed store: %w", err)
	}
	records, err := sealed.Open(ctx, borrowed{below}, keyring, id, id)
	if err != nil {
		return nil, fmt.Errorf("open the sealed store: %w", err)
	}
	public, own, err := makeTokenKeys(ctx, token)
	if err != nil {
		err = fmt.Errorf("make the audit log's keys: %w", err)
	} else {
		err = keyring.Bind(ctx, records, own...)
	}
	return public, errors.Join(err, records.Close())
}

// borrowed is a store that its user does not close.
type borrowed struct{ keystore.Store }

func (borrowed) Close() error { return nil }

// Names of the keys that the appliance has in its token beside the root.
const (
	checkpointKey = "checkpoint" // signs the audit log's checkpoints
	chainKey      = "chain"      // gives the keys of its batches' MACs
)

// makeTokenKeys makes the audit log's keys, and returns them and the public half of the one that signs.
func makeTokenKeys(ctx context.Context, token hsm.Provider) (*ecdsa.PublicKey, []domain.TokenKey, error) {
	signer, signerBlob, err := token.Generate(ctx, hsm.SignP256)
	if err != nil {
		return nil, nil, err
	}
	defer signer.Close()
	chain, chainBlob, err := token.Generate(ctx, hsm.PRFSHA256)
	if err != nil {
		return nil, nil, err
	}
	defer chain.Close()
	public, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, nil, errNoSigner
	}
	return public, []domain.TokenKey{{Name: checkpointKey, Blob: signerBlob}, {Name: chainKey, Blob: chainBlob}}, nil
}
