package rack

import (
	"errors"

	"github.com/keyrack/keyrack/hsm/soft"
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

	ErrTokenUnsafe  = soft.ErrUnsafe  // others may read the soft token's file
	ErrTokenDamaged = soft.ErrDamaged // it is not a token, or not an intact one
	ErrStoreUnsafe  = bolt.ErrUnsafe  // others may read the store's file
	ErrStoreFormat  = bolt.ErrFormat  // it is not a store, or one of another version
	ErrStoreDamaged = bolt.ErrDamaged // it is not as it was written
	ErrStoreInUse   = bolt.ErrInUse   // another program has it open
)
