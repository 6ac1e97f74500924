package rack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/soft"
	"github.com/keyrack/keyrack/hsm/tpm2"
	"github.com/keyrack/keyrack/internal/securemem"
)

// ErrToken says that a token's specification makes no sense.
var ErrToken = errors.New("rack: --token is not understood")

// ParseToken returns how to make and how to open the token that a specification
// names: "soft" is a file in the data folder dir, "soft:PATH" one elsewhere, where a copy
// of the folder does not take it along; "tpm2" is the machine's TPM, "tpm2:NAME=VALUE;…" one
// that [tpm2.ParseConfig] describes; "pkcs11:NAME=VALUE;…" is one behind a vendor's library, see
// [pkcs11.ParseConfig], which its operator has initialised. create takes a token that is there already, because
// an attempt to make an appliance may have been cut off. It reads no secret. Of a specification with pin-ask=yes both return
// ErrAsksPIN: [ParseAsked] has what opens such a token.
func ParseToken(spec, dir string) (create, open hsm.Opener, err error) {
	kind, rest, named := strings.Cut(spec, ":")
	switch {
	case named && rest == "":
		return nil, nil, fmt.Errorf("%w: %q ends with a colon", ErrToken, beginning(kind)+":")
	case kind == "soft":
		if !named {
			rest = filepath.Join(dir, tokenName)
		}
		create, open = softToken(rest)
		return create, open, nil
	case kind != "soft" && strings.Contains(rest, pinAsk):
		asked, err := ParseAsked(spec, dir)
		if asked != nil || err != nil {
			return refuseToAsk, refuseToAsk, err
		}
		return nil, nil, fmt.Errorf("%w: %s belongs to tpm2 and pkcs11", ErrToken, pinAsk)
	case kind == "tpm2":
		cfg, err := tpm2.ParseConfig(rest)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrToken, err)
		}
		open = func(ctx context.Context) (hsm.Provider, error) {
			t, err := tpm2.Open(ctx, cfg)
			if err != nil {
				return nil, err // and no Provider that holds a nil Token
			}
			return t, nil
		}
		return open, open, nil
	case kind == "pkcs11":
		if open, err = pkcs11Token(rest, dir, nil); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrToken, err)
		}
		return open, open, nil
	}
	return nil, nil, fmt.Errorf("%w: %q is none of soft, soft:PATH, tpm2, tpm2:NAME=VALUE;… and pkcs11:NAME=VALUE;…", ErrToken, beginning(kind))
}

// beginning returns the letters and digits that a specification begins with, at most 16: behind them there may be a PIN.
func beginning(spec string) string {
	end := strings.IndexFunc(spec, func(r rune) bool { return (r|0x20 < 'a' || r|0x20 > 'z') && (r < '0' || r > '9') })
	if end < 0 {
		end = len(spec)
	}
	return spec[:min(end, 16)]
}

// softToken returns how to make and how to open the token in the file at path.
func softToken(path string) (create, open hsm.Opener) {
	open = func(context.Context) (hsm.Provider, error) { return soft.Open(path) }
	create = func(ctx context.Context) (hsm.Provider, error) {
		t, err := soft.Create(path)
		if errors.Is(err, fs.ErrExist) {
			return open(ctx)
		}
		return t, err
	}
	return create, open
}

// poolBytes is how much of the token's generator the kernel's gets at each start.
const poolBytes = 64

// mixRandom mixes random bytes of the token into the kernel's pool, from which all of ours come. Writing to /dev/urandom
// takes nothing away and credits nothing (random(4)), so a token whose generator is bad does no harm.
func mixRandom(ctx context.Context, token hsm.Provider) error {
	b := make([]byte, poolBytes)
	defer securemem.Wipe(b)
	if err := token.Random(ctx, b); err != nil {
		return fmt.Errorf("random bytes of the token: %w", err)
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
