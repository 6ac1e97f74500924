// Package pkcs11 is a token behind a PKCS#11 module (OASIS PKCS#11 2.40 and 3.x): an HSM, a smart card, or SoftHSM2.
// Read Config, Open and Token first; FORMAT.md gives the blob byte by byte and the attributes of the keys.
//
// It asks a token for HMAC-SHA-256 and ECDSA alone, which every HSM has, and never for a key that could leave it. It
// holds one login a token, never repeats a PIN that was refused, and treats what a module answers as hostile; but a
// module is code in this process, which it can crash or read. A build without cgo has none of this: there Open says so.
package pkcs11

import (
	"errors"
	"time"

	"github.com/keyrack/keyrack/internal/pin"
	"github.com/keyrack/keyrack/internal/securemem"
)

var (
	// ErrNotBuilt is returned by Open in a build without cgo.
	ErrNotBuilt = errors.New("pkcs11: this build has no PKCS#11: it was made with CGO_ENABLED=0, which cannot load a module")

	// ErrConfig is wrapped by ParseConfig and Open for a configuration that makes no sense.
	ErrConfig = errors.New("pkcs11: bad configuration")

	// ErrModule is wrapped by Open for a file that is missing or is no PKCS#11 module, and for a module that does not start.
	ErrModule = errors.New("pkcs11: the module cannot be used")

	// ErrNoToken is wrapped by Open when no slot, or more than one, has the token that was asked for, or one that is
	// not yet initialised.
	ErrNoToken = errors.New("pkcs11: no such token")

	// ErrToken is wrapped by Open for a token that lacks what a root needs.
	ErrToken = errors.New("pkcs11: the token cannot hold a root")

	// ErrInUse is wrapped by Open for a token that this process has open already.
	ErrInUse = errors.New("pkcs11: this process has the token open already")

	// ErrPIN is wrapped for a PIN that the token has refused. It is not tried again.
	ErrPIN = errors.New("pkcs11: the token refuses the PIN")

	// ErrPINTries is wrapped when the token would lock itself at one more wrong PIN, so that none was tried.
	ErrPINTries = errors.New("pkcs11: one wrong PIN more locks the token")

	// ErrPINLocked is wrapped for a token that has locked its PIN.
	ErrPINLocked = errors.New("pkcs11: the token has locked its PIN")

	// ErrAttributes is wrapped by Generate and Load for a key that could be used for more, or leave the token in more
	// ways, than a root may. The error that wraps it names the attributes.
	ErrAttributes = errors.New("pkcs11: the key's attributes are not those of a root")

	// ErrTwice is wrapped by Load for an id that two keys have: one of them was planted.
	ErrTwice = errors.New("pkcs11: two keys have one id")

	// ErrFull is wrapped by Generate when the token has no room left.
	ErrFull = errors.New("pkcs11: the token is full")

	// ErrGone is wrapped when the token or its module is away, and did not come back when it was asked for anew.
	ErrGone = errors.New("pkcs11: the token does not answer")

	// ErrSilent is wrapped when a call into the module has not come back in time. A call cannot be taken back: it holds
	// its session until it returns.
	ErrSilent = errors.New("pkcs11: the module has not answered in time")

	// ErrReply is wrapped for an answer that no sound module gives.
	ErrReply = errors.New("pkcs11: the module answers nonsense")
)

// Errors returns all of the above, and that of a PIN that cannot be read, for a process that reads them from another one.
func Errors() []error {
	return []error{
		ErrNotBuilt, ErrConfig, ErrModule, ErrNoToken, ErrToken, ErrInUse, pin.ErrUnreadable, ErrPIN, ErrPINTries, ErrPINLocked,
		ErrAttributes, ErrTwice, ErrFull, ErrGone, ErrSilent, ErrReply,
	}
}

const (
	defaultSessions = 8
	maxSessions     = 64
	defaultTimeout  = 30 * time.Second // an HSM in another room makes a key in a second or two
)

// Config says which token to open and where its PIN is. It holds no PIN.
type Config struct {
	Module       string // absolute path of the vendor's library
	Label        string // CKA label of the token; with Serial, both must fit
	Serial       string // its serial number; needed where two tokens share a label
	Manufacturer string // fits any when empty
	Model        string // fits any when empty

	// PIN says where the PIN is, which is read anew for each login and so not kept. Without one the token must need none, or have a key
	// pad of its own.
	PIN pin.Source

	// Asked, in place of PIN, gives the PIN at each login, in locked memory that is freed then.
	Asked interface {
		Read() (*securemem.Buffer, error)
	}

	// Refused is the path of the file that keeps 8 bits of the last PIN that the token has refused, so that a restart does
	// not try it again. Empty: only this process remembers.
	Refused string

	FinalTry bool          // try the PIN even where a wrong one locks the token
	Sessions int           // calls at a time, 1 to 64; 0 means 8, or fewer where the token has not as many
	Timeout  time.Duration // longest wait for a call into the module; 0 means 30 s
}
