//go:build cgo

package pkcs11

// #cgo linux LDFLAGS: -ldl
// #include <stdlib.h>
// #include "native.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// native is a loaded module. Its methods may run at the same time: the module locks for itself (CKF_OS_LOCKING_OK).
type native struct {
	*pkcs11.Ctx
	list *C.struct_kr_list
}

var _ cryptoki = native{}

// loadNative loads the module at path, or says in one error why it is none. It is never unloaded: vendors' libraries leave threads behind.
func loadNative(path string) (cryptoki, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrModule, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is no regular file", ErrModule, path)
	case info.Mode().Perm()&0o022 != 0: // whoever can change it runs what he likes where the PIN is
		return nil, fmt.Errorf("%w: others than its owner may write %s: it has mode %04o", ErrModule, path, info.Mode().Perm())
	case !isTrusted(info):
		return nil, fmt.Errorf("%w: %s belongs to another user than root and this one", ErrModule, path)
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var n native
	if why := C.kr_load(name, &n.list); why != nil {
		defer C.free(unsafe.Pointer(why))
		text := printable(C.GoString(why))
		if !strings.Contains(text, path) { // the linker names it, we do not
			text = path + ": " + text
		}
		return nil, fmt.Errorf("%w: %s", ErrModule, text)
	}
	if n.Ctx = pkcs11.New(path); n.Ctx == nil {
		return nil, fmt.Errorf("%w: %s cannot be loaded again", ErrModule, path)
	}
	return n, nil
}

// isTrusted reports whether a file is root's or our own.
func isTrusted(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && (stat.Uid == 0 || int(stat.Uid) == os.Geteuid())
}

// rv makes an error of a return value.
func rv(r C.ulong) error {
	if r == pkcs11.CKR_OK {
		return nil
	}
	return pkcs11.Error(r)
}

// Start is C_Initialize, with CKF_OS_LOCKING_OK.
func (n native) Start() error { return n.Initialize() }

// Slots is C_GetSlotList of slots with a token, at most maxSlots.
func (n native) Slots() ([]uint, error) {
	var out [maxSlots]C.ulong
	count := C.ulong(len(out))
	if err := rv(C.kr_slots(n.list, &out[0], &count)); err != nil {
		return nil, err
	}
	if count > maxSlots {
		return nil, fmt.Errorf("%w: it writes %d slots into room for %d", ErrReply, count, maxSlots)
	}
	slots := make([]uint, count)
	for i := range slots {
		slots[i] = uint(out[i])
	}
	return slots, nil
}

// LoginUser is C_Login of the user; a nil PIN leaves it to the token's own key pad.
func (n native) LoginUser(s pkcs11.SessionHandle, pin []byte) error {
	return rv(C.kr_login(n.list, C.ulong(s), (*C.uchar)(unsafe.SliceData(pin)), C.ulong(len(pin))))
}

// Random is C_GenerateRandom. p is not empty.
func (n native) Random(s pkcs11.SessionHandle, p []byte) error {
	return rv(C.kr_random(n.list, C.ulong(s), (*C.uchar)(unsafe.SliceData(p)), C.ulong(len(p))))
}

// Find is C_FindObjects, for at most maxFound objects.
func (n native) Find(s pkcs11.SessionHandle) ([]pkcs11.ObjectHandle, error) {
	var out [maxFound]C.ulong
	var count C.ulong
	if err := rv(C.kr_find(n.list, C.ulong(s), &out[0], maxFound, &count)); err != nil {
		return nil, err
	}
	if count > maxFound {
		return nil, fmt.Errorf("%w: it finds %d objects where at most %d were asked for", ErrReply, count, maxFound)
	}
	found := make([]pkcs11.ObjectHandle, count)
	for i := range found {
		found[i] = pkcs11.ObjectHandle(out[i])
	}
	return found, nil
}

// Sign is C_Sign: it writes into out, whose length bounds the answer, and returns the answer's length.
func (n native) Sign(s pkcs11.SessionHandle, in, out []byte) (int, error) {
	size := C.ulong(len(out))
	err := rv(C.kr_sign(n.list, C.ulong(s), (*C.uchar)(unsafe.SliceData(in)), C.ulong(len(in)), (*C.uchar)(unsafe.SliceData(out)), &size))
	if err != nil {
		return 0, err
	}
	if size > C.ulong(len(out)) {
		return 0, fmt.Errorf("%w: it signs with %d bytes in room for %d", ErrReply, size, len(out))
	}
	return int(size), nil
}

// Attributes is C_GetAttributeValue. What the module does not know or does not tell is absent (CK_UNAVAILABLE_INFORMATION); a
// value longer than maxValue bytes is absent too.
func (n native) Attributes(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, types []uint) (map[uint][]byte, error) {
	if len(types) == 0 || len(types) > C.kr_attribute_max {
		return nil, fmt.Errorf("%w: %d attributes", ErrReply, len(types))
	}
	asked, lens := make([]C.ulong, len(types)), make([]C.ulong, len(types))
	for i, t := range types {
		asked[i] = C.ulong(t)
	}
	buf := make([]byte, len(types)*maxValue)
	err := rv(C.kr_attributes(n.list, C.ulong(s), C.ulong(o), &asked[0], C.ulong(len(asked)), (*C.uchar)(&buf[0]), maxValue, &lens[0]))
	// These three say that some attribute was not told, and the others were (PKCS#11 2.40, section 5.7).
	for _, partial := range []uint{pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_BUFFER_TOO_SMALL} {
		if errors.Is(err, pkcs11.Error(partial)) {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	values := make(map[uint][]byte, len(types))
	for i, t := range types {
		if lens[i] <= maxValue {
			values[t] = buf[i*maxValue:][:lens[i]:lens[i]]
		}
	}
	return values, nil
}
