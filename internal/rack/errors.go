package rack

import (
	"errors"

	"github.com/keyrack/keyrack/hsm/pkcs11"
	"github.com/keyrack/keyrack/hsm/remote"
	"github.com/keyrack/keyrack/hsm/soft"
	"github.com/keyrack/keyrack/hsm/tpm2"
	"github.com/keyrack/keyrack/keystore/bolt"
)

// Errors of Create and Start beside those of folder.go. Most of them are those of a
// token or an engine, which nobody else may name: whoever tells an operator what to
// do finds them here.
var (
	// ErrNoToken says that the token cannot be opened; the error that wraps it says why.
	ErrNoToken = errors.New("rack: the token does not open")

	// ErrOtherToken says that an attempt to make an appliance, which did not come to its end, was made with another token, and has left keys there.
	ErrOtherToken = errors.New("rack: an attempt before has left keys in another token")

	// ErrServerKey says that the file with the server's key and certificate is not private or not whole.
	ErrServerKey = errors.New("rack: the server's key cannot be used")

	ErrTokenUnsafe  = soft.ErrUnsafe      // others may read the soft token's file
	ErrTokenDamaged = soft.ErrDamaged     // it is not a token, or not an intact one
	ErrTPMAway      = tpm2.ErrUnreachable // nothing answers at its path, or no more
	ErrTPMSilent    = tpm2.ErrSilent      // it does not answer in time
	ErrTPMGarbage   = tpm2.ErrGarbage     // what answers is no TPM, or somebody is between
	ErrTPMFailed    = tpm2.ErrFailed      // its self-test failed
	ErrTPMBusy      = tpm2.ErrBusy        // others have its slots
	ErrTPMOwner     = tpm2.ErrOwner       // it wants its owner's authorization
	ErrTPMPIN       = tpm2.ErrPIN         // the PIN is wrong or missing
	ErrTPMLockout   = tpm2.ErrLockout     // it is locked against guessing, or nearly
	ErrTPMFull      = tpm2.ErrFull        // it has no room for another key's counter
	ErrTPMReplaced  = tpm2.ErrReplaced    // another one is in its place, or it was cleared

	ErrTokenNotBuilt   = pkcs11.ErrNotBuilt   // this build cannot load a PKCS#11 module
	ErrTokenModule     = pkcs11.ErrModule     // the file is no PKCS#11 module
	ErrTokenMissing    = pkcs11.ErrNoToken    // the module has no such token, or two
	ErrTokenUnfit      = pkcs11.ErrToken      // the token cannot do what a root must
	ErrTokenPIN        = pkcs11.ErrPIN        // the token refuses it
	ErrTokenPINTries   = pkcs11.ErrPINTries   // one wrong PIN more locks it
	ErrTokenPINLocked  = pkcs11.ErrPINLocked  // it is locked
	ErrTokenFull       = pkcs11.ErrFull       // it has no room for a key
	ErrTokenAttributes = pkcs11.ErrAttributes // a key in it can do more than it may
	ErrTokenTwice      = pkcs11.ErrTwice      // two keys in it have one id
	ErrTokenGone       = pkcs11.ErrGone       // it does not answer
	ErrTokenSilent     = pkcs11.ErrSilent     // nor in time
	ErrTokenReply      = pkcs11.ErrReply      // its module answers nonsense
	ErrTokenDied       = remote.ErrDied       // the process that holds it has died

	ErrStoreUnsafe  = bolt.ErrUnsafe  // others may read the store's file
	ErrStoreFormat  = bolt.ErrFormat  // it is not a store, or one of another version
	ErrStoreDamaged = bolt.ErrDamaged // it is not as it was written
	ErrStoreInUse   = bolt.ErrInUse   // another program has it open
)
