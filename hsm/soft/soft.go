// Package soft is a token made of a file, for development and tests: its keys are as safe as that file, and Describe
// says so. Read Token, Open and Create first; FORMAT.md gives the file byte by byte.
//
// Its secrets lie in locked memory while the token is open. It does not hide them from whoever reads the file, counts
// nothing and has no PIN.
package soft

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"

	"github.com/keyrack/keyrack/hsm"
)

var (
	// ErrUnsafe is wrapped by Open for a file that others may read or write, that another user owns, or that is no
	// regular file.
	ErrUnsafe = errors.New("soft: file is not private")

	// ErrDamaged is wrapped by Open for a file that is cut, altered, or not of this format and version.
	ErrDamaged = errors.New("soft: not an intact token file")

	// ErrChanged is returned by Generate and Destroy when the file is not what this token wrote or read: another process uses it, or
	// it was replaced. Nothing was written.
	ErrChanged = errors.New("soft: token file was changed by another process")

	// ErrFull is returned by Generate when the token has its 1024 keys.
	ErrFull = errors.New("soft: token is full")
)

// Token is an open soft token. It is safe for concurrent use.
type Token struct {
	path string // empty: memory only
	id   [idSize]byte

	// changing is held by Generate and Destroy across their file writes, so that one follows the other. It is taken before mu.
	changing sync.Mutex

	// mu guards image. It is held for reading while a secret is in use and for writing only to swap or wipe it, so Close and Destroy
	// wait for uses under way.
	mu    sync.RWMutex
	image image // what the file holds; nil after Close
}

var _ hsm.Provider = (*Token)(nil)

// Create makes a new token in a new file, mode 0600, whose directory exists. It never overwrites: when the path is taken
// it returns an error that wraps fs.ErrExist.
func Create(path string) (*Token, error) {
	img, err := newImage()
	if err != nil {
		return nil, err
	}
	if err := createFile(path, img.bytes()); err != nil {
		img.free()
		return nil, err
	}
	return newToken(path, img), nil
}

// Open opens the token in the file at path. It returns errors that wrap fs.ErrNotExist, ErrUnsafe or ErrDamaged, or what
// the file system said.
func Open(path string) (*Token, error) {
	buf, err := readFile(path)
	if err != nil {
		return nil, err
	}
	img := image{buf}
	if err := img.check(); err != nil {
		img.free()
		return nil, err
	}
	return newToken(path, img), nil
}

// Memory returns a new token without a file: its keys end with it.
func Memory() (*Token, error) {
	img, err := newImage()
	if err != nil {
		return nil, err
	}
	return newToken("", img), nil
}

// newToken takes over img.
func newToken(path string, img image) *Token {
	return &Token{path: path, id: img.tokenID(), image: img}
}

// Describe returns kind soft, the token id in hex as serial, and the warning that this is for development.
func (t *Token) Describe() hsm.Description {
	return hsm.Description{
		Kind:        "soft",
		Model:       "keyrack soft token",
		Serial:      hex.EncodeToString(t.id[:]),
		Specs:       []hsm.Spec{hsm.PRFSHA256, hsm.SignP256},
		Development: true,
		Warning:     "keys are as safe as a file: for development only",
	}
}

// Generate makes a key and writes it to the file before it returns. Beside the errors of hsm.Provider it returns ErrFull,
// ErrChanged, or what the file system said; then the token is as before.
func (t *Token) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	plan, err := t.Plan(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	return t.Make(ctx, spec, plan)
}

var _ hsm.Planner = (*Token)(nil)

// Plan draws the id of a key. The plan is the key's blob already.
func (t *Token) Plan(ctx context.Context, spec hsm.Spec) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var id [idSize]byte
	_, _ = rand.Read(id[:]) // never fails
	return t.blob(id), t.view(func(image) error { return checkSpec(spec) })
}

// Make is Generate of what was planned.
func (t *Token) Make(ctx context.Context, spec hsm.Spec, plan []byte) (hsm.Key, []byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	id, ok := t.parseBlob(plan)
	if !ok {
		return nil, nil, hsm.ErrBlob
	}
	t.changing.Lock()
	defer t.changing.Unlock()
	var grown image
	err := t.view(func(img image) (err error) {
		grown, err = img.with(spec, id)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if err := t.replace(grown); err != nil {
		grown.free()
		return nil, nil, err
	}
	blob := t.blob(id) // a token that keeps its keys gives a reference, not a wrapped key
	k, err := t.Load(ctx, blob)
	return k, blob, err
}

// Destroy takes the key out of the file before it returns, and wipes it from memory. Beside the errors of hsm.Provider it returns
// ErrChanged, or what the file system said; then the token is as before.
func (t *Token) Destroy(ctx context.Context, blob []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.changing.Lock()
	defer t.changing.Unlock()
	var less image
	err := t.view(func(img image) (err error) {
		id, ok := t.parseBlob(blob)
		if !ok {
			return hsm.ErrBlob
		}
		at, ok := img.find(id)
		if !ok {
			return t.gone()
		}
		less, err = img.without(at)
		return err
	})
	if err != nil {
		return err
	}
	if err := t.replace(less); err != nil {
		less.free()
		return err
	}
	return nil
}

// gone returns hsm.ErrBlob for a key that the file does not hold. A Destroy that was cut off may have taken it out
// without having synced the folder; who hears that it is gone forgets it, so a power cut must not bring it back.
func (t *Token) gone() error {
	if t.path != "" {
		if err := locked(t.path, func(string) error { return nil }); err != nil {
			return err
		}
	}
	return hsm.ErrBlob
}

// replace writes next to the file and makes it the token's image. The caller holds changing, so image does not change
// in between, except to none.
func (t *Token) replace(next image) error {
	if t.path != "" {
		err := t.view(func(old image) error { return replaceFile(t.path, old.bytes(), next.bytes()) })
		if err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.image.closed() {
		return hsm.ErrClosed
	}
	t.image.free()
	t.image = next
	return nil
}

// Load returns the key that blob names.
func (t *Token) Load(ctx context.Context, blob []byte) (hsm.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	id, ok := t.parseBlob(blob)
	if !ok {
		return nil, hsm.ErrBlob
	}
	var k hsm.Key
	err := t.view(func(img image) error {
		at, ok := img.find(id)
		if !ok {
			return hsm.ErrBlob
		}
		var err error
		k, err = newKey(t, img, id, at)
		return err
	})
	return k, err
}

// Random fills p from the kernel's generator, through crypto/rand.
func (t *Token) Random(ctx context.Context, p []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.view(func(image) error {
		_, err := rand.Read(p)
		return err
	})
}

// Close wipes the token's memory, after uses under way have finished. Its keys return hsm.ErrClosed from then on.
func (t *Token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.image.free()
	t.image = image{}
	return nil
}

// view runs f with the image while it can neither change nor be wiped.
func (t *Token) view(f func(image) error) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.image.closed() {
		return hsm.ErrClosed
	}
	return f(t.image)
}

// Sizes and first byte of a blob, FORMAT.md.
const (
	idSize     = 16
	blobFormat = 'S'
	blobSize   = 1 + idSize + idSize
)

// blob returns the blob of the key with this id.
func (t *Token) blob(id [idSize]byte) []byte {
	b := append(make([]byte, 0, blobSize), blobFormat)
	b = append(b, t.id[:]...)
	return append(b, id[:]...)
}

// parseBlob returns the key id in blob and whether blob is one of this token.
func (t *Token) parseBlob(blob []byte) (id [idSize]byte, ok bool) {
	if len(blob) != blobSize || blob[0] != blobFormat || [idSize]byte(blob[1:1+idSize]) != t.id {
		return id, false
	}
	return [idSize]byte(blob[1+idSize:]), true
}
