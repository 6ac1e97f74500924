package rack

import (
	"errors"

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
	ErrStoreUnsafe  = bolt.ErrUnsafe      // others may read the store's file
	ErrStoreFormat  = bolt.ErrFormat      // it is not a store, or one of another version
	ErrStoreDamaged = bolt.ErrDamaged     // it is not as it was written
	ErrStoreInUse   = bolt.ErrInUse       // another program has it open
)
