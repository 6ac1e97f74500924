//go:build cgo

package pkcs11

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"unicode"

	"github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/internal/securemem"
)

// Bounds of what a module may answer.
const (
	maxSlots = 256
	maxFound = 64  // objects of one id
	maxValue = 256 // bytes of an attribute
)

// cryptoki is all that the package calls of a module, so that a test can stand in between. The names are those of PKCS#11 2.40,
// section 5, without the C_.
type cryptoki interface {
	library
	sessions
	objects
	keys
}

type library interface {
	Start() error // C_Initialize
	Finalize() error
	GetInfo() (pkcs11.Info, error)
	Slots() ([]uint, error) // C_GetSlotList
	GetTokenInfo(slot uint) (pkcs11.TokenInfo, error)
	GetMechanismInfo(slot uint, m []*pkcs11.Mechanism) (pkcs11.MechanismInfo, error)
}

type sessions interface {
	OpenSession(slot, flags uint) (pkcs11.SessionHandle, error)
	CloseSession(s pkcs11.SessionHandle) error
	GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error)
	LoginUser(s pkcs11.SessionHandle, pin []byte) error
	Logout(s pkcs11.SessionHandle) error
	Random(s pkcs11.SessionHandle, p []byte) error
}

type objects interface {
	FindObjectsInit(s pkcs11.SessionHandle, template []*pkcs11.Attribute) error
	Find(s pkcs11.SessionHandle) ([]pkcs11.ObjectHandle, error) // C_FindObjects
	FindObjectsFinal(s pkcs11.SessionHandle) error
	Attributes(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, types []uint) (map[uint][]byte, error)
	DestroyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) error
}

type keys interface {
	GenerateKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
	GenerateKeyPair(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, public, private []*pkcs11.Attribute) (pkcs11.ObjectHandle, pkcs11.ObjectHandle, error)
	SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, o pkcs11.ObjectHandle) error
	Sign(s pkcs11.SessionHandle, in, out []byte) (int, error)
}

// modules are those that this process has loaded, by real path. A module's state is one for the whole process (PKCS#11 2.40, section
// 5.4), so the tokens of one module share it: the first starts it, the last ends it.
var modules struct {
	sync.Mutex
	byPath map[string]*module
	mark   [sha256.Size]byte // random key of the digests of refused PINs
}

// module is a loaded library.
type module struct {
	path string
	lib  cryptoki

	// calls is entered by every call of a token. What starts or ends the library, and what makes or destroys objects, locks it: an
	// object store need not be as safe as its module says (SoftHSM 2.6.1 fails in C_GenerateKey and loses objects).
	calls   gate
	running bool   // guarded by calls
	users   int    // tokens open; guarded by calls
	starts  uint64 // how often it was started; guarded by calls

	open    map[[bindingSize]byte]bool              // tokens that are open; guarded by modules
	refused map[[bindingSize]byte][sha256.Size]byte // keyed digest of the last PIN that each refused; guarded by modules
}

// useModule returns the running module at path, and counts the caller in until leave.
func useModule(ctx context.Context, path string, load func(string) (cryptoki, error)) (*module, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // one library under two names is initialised once
	}
	m, err := loadedModule(path, load)
	if err != nil {
		return nil, err
	}
	if err := m.calls.lock(ctx); err != nil {
		return nil, err
	}
	defer m.calls.unlock()
	if err := m.start(); err != nil {
		return nil, err
	}
	m.users++
	return m, nil
}

func loadedModule(path string, load func(string) (cryptoki, error)) (*module, error) {
	modules.Lock()
	defer modules.Unlock()
	if m := modules.byPath[path]; m != nil {
		return m, nil
	}
	lib, err := load(path)
	if err != nil {
		return nil, err
	}
	m := &module{path: path, lib: lib, open: map[[bindingSize]byte]bool{}, refused: map[[bindingSize]byte][sha256.Size]byte{}}
	if modules.byPath == nil {
		modules.byPath = map[string]*module{}
		_, _ = rand.Read(modules.mark[:]) // never fails
	}
	modules.byPath[path] = m
	return m, nil
}

// start initialises the library unless it runs. The caller holds calls.
func (m *module) start() error {
	if m.running {
		return nil
	}
	err := m.lib.Start()
	if err != nil && !isCode(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return fmt.Errorf("%w: %s does not start: C_Initialize: %w", ErrModule, m.path, err)
	}
	m.running = true
	m.starts++
	return nil
}

// restart ends and starts the library, as after the death of a daemon behind it, unless somebody did since the start numbered seen. It
// waits for calls under way, at most until ctx is done.
func (m *module) restart(ctx context.Context, seen uint64) error {
	if err := m.calls.lock(ctx); err != nil {
		return err
	}
	defer m.calls.unlock()
	if m.starts != seen {
		return nil
	}
	if m.running {
		_ = m.lib.Finalize() // it says that it was not initialised, or whatever broke it
		m.running = false
	}
	return m.start()
}

// claim notes that a token is open, or returns ErrInUse.
func (m *module) claim(binding [bindingSize]byte) error {
	modules.Lock()
	defer modules.Unlock()
	if m.open[binding] {
		return ErrInUse
	}
	m.open[binding] = true
	return nil
}

// leave is the end of what useModule and claim began.
func (m *module) leave(ctx context.Context, binding [bindingSize]byte, claimed bool) error {
	if err := m.calls.lock(ctx); err != nil {
		return err
	}
	defer m.calls.unlock()
	if claimed {
		modules.Lock()
		delete(m.open, binding)
		modules.Unlock()
	}
	if m.users--; m.users > 0 || !m.running {
		return nil
	}
	m.running = false
	if err := m.lib.Finalize(); err != nil && !isCode(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		return fmt.Errorf("pkcs11: C_Finalize: %w", err)
	}
	return nil
}

// remember notes that a token has refused pin.
func (m *module) remember(binding [bindingSize]byte, pin []byte) {
	modules.Lock()
	defer modules.Unlock()
	m.refused[binding] = pinMark(pin)
}

// hasRefused reports whether pin is the last that the token has refused.
func (m *module) hasRefused(binding [bindingSize]byte, pin []byte) bool {
	modules.Lock()
	defer modules.Unlock()
	mark, ok := m.refused[binding]
	return ok && mark == pinMark(pin)
}

// pinMark is a keyed digest of pin. The caller holds modules.
func pinMark(pin []byte) (mark [sha256.Size]byte) {
	securemem.Do(func() {
		h := hmac.New(sha256.New, modules.mark[:])
		h.Write(pin)
		h.Sum(mark[:0])
	})
	return mark
}

// isCode reports whether err is one of these return values of a module.
func isCode(err error, codes ...uint) bool {
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return false
	}
	for _, c := range codes {
		if uint(code) == c {
			return true
		}
	}
	return false
}

// printable returns what a module says of itself without what would confuse a terminal or a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(strings.TrimRight(s, "\x00")), "?"))
}
