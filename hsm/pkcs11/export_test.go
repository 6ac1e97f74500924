//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
)

// Cryptoki is what a test can stand in for.
type Cryptoki = cryptoki

// AttributeNames lists the attributes that keys must have, by name.
func AttributeNames() map[string]uint {
	all := map[string]uint{}
	for _, spec := range []hsm.Spec{hsm.PRFSHA256, hsm.SignP256} {
		for _, a := range wanted(spec) {
			all[a.name] = a.kind
		}
	}
	return all
}

// OpenThrough is Open with wrap between the provider and the module. The module counts as one of its own, by name.
func OpenThrough(ctx context.Context, c Config, wrap func(Cryptoki) Cryptoki) (*Token, error) {
	return open(ctx, c, func(path string) (cryptoki, error) {
		lib, err := loadNative(path)
		if err != nil {
			return nil, err
		}
		return wrap(lib), nil
	})
}

// Forget has the next Open load path again, so that it can be wrapped otherwise; the module stays as it is.
func Forget(path string) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	modules.Lock()
	defer modules.Unlock()
	delete(modules.byPath, path)
}

// admin serialises what an administrator does with a module, and keeps it running.
var admin struct {
	sync.Mutex
	module *module
}

// Admin runs f with the module itself, started.
func Admin(path string, f func(c *pkcs11.Ctx) error) error {
	admin.Lock()
	defer admin.Unlock()
	if admin.module == nil {
		m, err := useModule(context.Background(), path, loadNative)
		if err != nil {
			return err
		}
		admin.module = m
	}
	if err := admin.module.calls.lock(context.Background()); err != nil {
		return err
	}
	defer admin.module.calls.unlock()
	return f(rawCtx(admin.module.lib))
}

// InitToken makes a token with a user PIN in the first free slot.
func InitToken(path, label, pin string) error {
	return Admin(path, func(c *pkcs11.Ctx) error {
		slots, err := c.GetSlotList(true)
		if err != nil {
			return err
		}
		for _, slot := range slots {
			info, err := c.GetTokenInfo(slot)
			if err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
				return initToken(c, slot, label, pin)
			}
		}
		return fmt.Errorf("no free slot among %d", len(slots))
	})
}

func initToken(c *pkcs11.Ctx, slot uint, label, pin string) error {
	if err := c.InitToken(slot, "so-pin", label); err != nil {
		return err
	}
	s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return err
	}
	defer c.CloseSession(s)
	if err := c.Login(s, pkcs11.CKU_SO, "so-pin"); err != nil {
		return err
	}
	return errors.Join(c.InitPIN(s, pin), c.Logout(s))
}

// Raw runs f with a session of t's login.
func (t *Token) Raw(f func(c *pkcs11.Ctx, s pkcs11.SessionHandle) error) error {
	return t.do(context.Background(), job{alone: true, run: func(s session) error { return f(rawCtx(s.cryptoki), s.SessionHandle) }})
}

// rawCtx returns the module below whatever a test has put around it.
func rawCtx(lib cryptoki) *pkcs11.Ctx {
	for {
		switch l := lib.(type) {
		case native:
			return l.Ctx
		case interface{ Unwrap() Cryptoki }:
			lib = l.Unwrap()
		default:
			panic(fmt.Sprintf("%T", lib))
		}
	}
}

// MAC is what t's module computes with a key that the test chose.
func (t *Token) MAC(key, in []byte) (out []byte, err error) {
	err = t.do(context.Background(), job{alone: true, run: func(s session) error {
		o, err := rawCtx(s.cryptoki).CreateObject(s.SessionHandle, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE, key),
		})
		if err != nil {
			return err
		}
		out = make([]byte, 32)
		return s.mac(o, in, out)
	}})
	return out, err
}

// IDOf returns the id in a blob.
func IDOf(b []byte) []byte {
	parsed, _ := parseBlob(b)
	return parsed.id[:]
}

// Plant makes a second key with the id and the attributes of the key of a blob.
func (t *Token) Plant(b []byte) error {
	parsed, _ := parseBlob(b)
	return t.do(context.Background(), job{alone: true, run: func(s session) error { _, err := s.make(&parsed, 0); return err }})
}

// Restart is the death and the return of everything that the module of t knows.
func (t *Token) Restart() error {
	if err := t.mod.calls.enter(context.Background()); err != nil {
		return err
	}
	starts := t.mod.starts
	t.mod.calls.leave()
	return t.mod.restart(context.Background(), starts)
}
