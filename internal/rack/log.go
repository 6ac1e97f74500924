package rack

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/keystore"
)

var (
	// errNoSigner says that a token's key is not of the kind that was asked for.
	errNoSigner = errors.New("the token's key does not sign")

	// errOtherKey says that the store names a key of the token that is not what it should be.
	errOtherKey = fmt.Errorf("the store names another key of the token: %w", keystore.ErrDamaged)
)

// origin names the audit log in its checkpoints.
func origin(id api.KeyID) string { return "keyrack.local/" + id.String() }

// openLog opens the audit log. Its two keys are in the token: one signs
// checkpoints, one gives the key of the batches' MACs, so that nobody who reads
// the appliance's memory can make either.
func (a *Appliance) openLog(ctx context.Context) error {
	if err := makeFolder(filepath.Join(a.cfg.Dir, auditName)); err != nil {
		return err
	}
	signer, public, err := a.checkpointSigner(ctx)
	if err != nil {
		return fmt.Errorf("checkpoint key: %w", err)
	}
	chain, err := a.chainKey(ctx)
	if err != nil {
		return fmt.Errorf("chain key: %w", err)
	}
	if a.auditKey, err = tlog.FormatP256(origin(a.id), public); err != nil {
		return err
	}
	a.log, err = audit.Open(audit.Config{
		Files: a.cfg.AuditFiles, Origin: origin(a.id), Clock: a.cfg.Clock, Durability: a.cfg.Durability, SegmentBytes: a.cfg.AuditBytes,
		Signer:   audit.Signer{Public: public, SignDigest: signer.SignDigest},
		StartKey: chain, OnChange: a.logChanged,
	})
	if err != nil {
		return err
	}
	a.newLog = a.log.State().Size == 0
	a.onClose(a.log.Close)
	return nil
}

// logChanged tells whoever is on call.
func (a *Appliance) logChanged(s audit.State) {
	level := slog.LevelInfo
	if s.Dead != nil || s.Full || s.CheckpointErr != nil {
		level = slog.LevelError
	}
	a.cfg.Logger.LogAttrs(a.ctx, level, "audit log", slog.Bool("full", s.Full), slog.Any("dead", s.Dead),
		slog.Any("checkpoint", s.CheckpointErr), slog.Any("space", s.SpaceErr))
}

// tokenKey loads one of the appliance's own keys from the token. It is of that spec and can do nothing besides: the
// store may name any key of the token until the domain key is open.
func (a *Appliance) tokenKey(ctx context.Context, name string, spec hsm.Spec, can hsm.Abilities) (hsm.Key, error) {
	blob, err := a.keyring.TokenKey(ctx, name)
	if err != nil {
		return nil, err
	}
	k, err := a.token.Load(ctx, blob)
	if err != nil {
		return nil, err
	}
	a.onClose(func(context.Context) error { return k.Close() })
	if k.Spec() != spec || k.Abilities() != can {
		return nil, fmt.Errorf("%w: it is %v and can %v", errOtherKey, k.Spec(), k.Abilities())
	}
	return k, nil
}

func (a *Appliance) checkpointSigner(ctx context.Context) (hsm.Signer, *ecdsa.PublicKey, error) {
	k, err := a.tokenKey(ctx, checkpointKey, hsm.SignP256, hsm.CanSign)
	if err != nil {
		return nil, nil, err
	}
	signer, ok := k.(hsm.Signer)
	public, isP256 := k.Public().(*ecdsa.PublicKey)
	if !ok || !isP256 {
		return nil, nil, errNoSigner
	}
	return signer, public, nil
}

// chainKey returns how the log gets the MAC key for a nonce: one HMAC in the token.
func (a *Appliance) chainKey(ctx context.Context) (func([32]byte) (*securemem.Buffer, error), error) {
	k, err := a.tokenKey(ctx, chainKey, hsm.PRFSHA256, hsm.CanPRF)
	if err != nil {
		return nil, err
	}
	prf, ok := k.(hsm.PRF)
	if !ok {
		return nil, errors.New("the token's key is not a PRF")
	}
	return func(nonce [32]byte) (*securemem.Buffer, error) {
		b, err := prf.PRF(a.ctx, make([]byte, 0, 32), seal.KDFInput(nil, seal.LabelAudit, nonce[:], 256))
		defer securemem.Wipe(b)
		if err != nil {
			return nil, err
		}
		return securemem.From(b)
	}, nil
}
