package tpm2

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	tpm "github.com/google/go-tpm/tpm2"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

// ErrFull is wrapped by Generate when the chip has no room for another counter. Every key takes one.
var ErrFull = errors.New("tpm2: TPM has no room for another counter")

// Our counters stand in the range that TCG's registry leaves to the owner, 0x01800000 to 0x01bfffff.
const (
	firstIndex tpm.TPMHandle = 0x01806b00
	indexes    tpm.TPMHandle = 256
)

// ours reports whether an index is in our range.
func ours(h tpm.TPMHandle) bool { return h >= firstIndex && h < firstIndex+indexes }

// Generate makes a key in the chip, and its counter. Beside the errors of hsm.Provider it returns ErrFull, ErrOwner, ErrPIN and those of
// Open. When it returns an error there is no key, and no counter either unless the chip could not be reached any more.
func (t *Token) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	for {
		plan, err := t.Plan(ctx, spec)
		if err != nil {
			return nil, nil, err
		}
		k, wrapped, err := t.Make(ctx, spec, plan)
		if !errors.Is(err, errTaken) {
			return k, wrapped, err
		}
	}
}

var _ hsm.Planner = (*Token)(nil)

// errTaken is returned where there is a counter at an index already.
var errTaken = errors.New("tpm2: the index of the counter is taken, another try chooses another")

// Plan chooses the index and the mark of a key's counter. The plan is a blob that ends before its unique, with count 0.
func (t *Token) Plan(ctx context.Context, spec hsm.Spec) (plan []byte, err error) {
	if uniqueSize(spec) == 0 {
		return nil, hsm.ErrSpec
	}
	err = t.use(ctx, func(l *link) error {
		used, err := l.used()
		if err != nil {
			return err
		}
		b := &blob{spec: spec, pin: t.pin.auth != nil, parent: l.root.digest()}
		_, _ = rand.Read(b.epoch.mark[:])
		b.epoch.index, err = freeIndex(used)
		plan = b.bytes()
		return err
	})
	if err != nil {
		return nil, err
	}
	return plan, nil
}

// Make is Generate of what was planned.
func (t *Token) Make(ctx context.Context, spec hsm.Spec, plan []byte) (k hsm.Key, wrapped []byte, err error) {
	var e epoch
	err = t.change(ctx, func(l *link) error {
		if t.pin.refused {
			return fmt.Errorf("%w before", ErrPIN)
		}
		b, err := t.find(l, plan)
		if err != nil {
			return err
		}
		if !b.isPlan() || b.spec != spec || b.pin != (t.pin.auth != nil) {
			return fmt.Errorf("%w: not a plan of such a key", hsm.ErrBlob)
		}
		l.clear() // all slots for what follows
		err = l.defineEpoch(t.owner, b.epoch)
		if errors.Is(err, errTaken) {
			return err // and not for us to undo
		}
		e = b.epoch
		if err != nil {
			return err
		}
		k, err = t.generate(l, b)
		wrapped = b.bytes()
		return err
	})
	if err == nil {
		return k, wrapped, nil
	}
	if e.index != 0 {
		undo := t.operate(context.WithoutCancel(ctx), true, func(l *link) error { return l.undefine(t.owner, e) })
		if undo != nil {
			err = fmt.Errorf("%w; its counter %#x may be left in the TPM: %w", err, uint32(e.index), undo)
		}
	}
	return nil, nil, err
}

// generate starts the epoch of b, makes its key, and uses it once: a key that does not work must not be handed out.
func (t *Token) generate(l *link, b *blob) (hsm.Key, error) {
	if err := l.increment(t.owner, b.epoch, false); err != nil {
		return nil, err
	}
	var err error
	if b.epoch.count, err = l.readEpoch(b.epoch, anyCount...); err != nil {
		return nil, err
	}
	for whole := false; !whole; {
		if whole, err = l.create(b, t.pin.value(b.pin)); err != nil {
			return nil, err
		}
	}
	k, _, err := newKey(t, b)
	if err != nil {
		return nil, err
	}
	return k, t.try(l, k)
}

// create makes b's key. It reports false for one to throw away, as setUnique says.
func (l *link) create(b *blob, auth []byte) (bool, error) {
	b.unique = nil
	template, err := b.public()
	if err != nil {
		return false, err
	}
	reply, err := run(l, tpm.Create{
		ParentHandle: l.root.auth(l.once(nil, tpm.AESEncryption(128, tpm.EncryptInOut))),
		InSensitive:  tpm.TPM2BSensitiveCreate{Sensitive: &tpm.TPMSSensitiveCreate{UserAuth: tpm.TPM2BAuth{Buffer: auth}}},
		InPublic:     tpm.New2B(*template),
	}.Execute)
	if err != nil {
		return false, fmt.Errorf("make the key: %w", err)
	}
	public, err := reply.OutPublic.Contents()
	if err != nil {
		return false, l.garbage(err)
	}
	b.private = reply.OutPrivate.Buffer
	if len(b.private) < minPrivate || len(b.private) > maxPrivate {
		return false, l.garbage(fmt.Errorf("a wrapped key of %d bytes", len(b.private)))
	}
	whole, err := b.setUnique(public)
	if err != nil {
		return false, l.garbage(err)
	}
	return whole, nil
}

// try uses a new key once.
func (t *Token) try(l *link, k hsm.Key) error {
	input := make([]byte, 32)
	if k, ok := k.(signKey); ok {
		return t.apply(l, k.blob, k.name, false, func(l *link, h tpm.AuthHandle) error {
			signature, err := l.sign(h, input)
			if err == nil && !ecdsa.VerifyASN1(k.public, input, signature) {
				return errSignature
			}
			return err
		})
	}
	p := k.(prfKey)
	return t.apply(l, p.blob, p.name, true, func(l *link, h tpm.AuthHandle) error {
		out, err := l.hmac(nil, h, input)
		securemem.Wipe(out)
		return err
	})
}

// Load returns the key of blob, after the chip took it as its own and its counter stands where it should. Whether the PIN is right shows
// at the first use. Beside the errors of hsm.Provider it returns those of Open.
func (t *Token) Load(ctx context.Context, wrapped []byte) (k hsm.Key, err error) {
	err = t.use(ctx, func(l *link) error {
		b, err := t.find(l, wrapped)
		if err != nil {
			return err
		}
		if b.isPlan() {
			return fmt.Errorf("%w: a plan", hsm.ErrBlob)
		}
		made, name, err := newKey(t, b)
		if err != nil {
			return err
		}
		if err := l.load(b, name); err != nil {
			return err
		}
		if _, err := l.readEpoch(b.epoch, b.epoch.count); err != nil {
			return err
		}
		k = made
		return nil
	})
	return k, err
}

// find parses a blob and returns hsm.ErrBlob for what is none of this chip.
func (t *Token) find(l *link, wrapped []byte) (*blob, error) {
	b, err := parseBlob(wrapped)
	if err != nil {
		return nil, err
	}
	if b.parent != l.root.digest() {
		return nil, fmt.Errorf("%w: it was made under another storage root key (%x, here %s): another TPM, or this one was cleared since",
			hsm.ErrBlob, b.parent[:16], t.description.Serial)
	}
	return b, nil
}

// Destroy increments the key's counter, which ends the key, and deletes it, which makes room. Beside the errors of hsm.Provider it
// returns ErrOwner and those of Open. A Destroy that was cut off between the two is finished by the next, which returns nil. It
// says that a key is gone only when the chip said so in a session of its own.
func (t *Token) Destroy(ctx context.Context, wrapped []byte) error {
	return t.change(ctx, func(l *link) error {
		b, err := t.find(l, wrapped)
		if err != nil {
			return err
		}
		l.clear()       // all slots for what follows
		if b.isPlan() { // nobody has the key: that its counter ends is enough
			return l.undefine(t.owner, b.epoch)
		}
		count, err := l.readEpoch(b.epoch, b.epoch.count, b.epoch.count+1)
		if err != nil {
			return err
		}
		if count == b.epoch.count {
			if err := l.increment(t.owner, b.epoch, true); err != nil {
				return err
			}
		}
		return l.undefine(t.owner, b.epoch)
	})
}

// defineEpoch makes a counter at its index. When the chip is full it first deletes those of ours that were never
// incremented: no key can live by one.
func (l *link) defineEpoch(owner []byte, e epoch) error {
	reclaimed := false
	for {
		_, err := run(l, tpm.NVDefineSpace{
			AuthHandle: tpm.AuthHandle{Handle: tpm.TPMRHOwner, Auth: l.once(owner, tpm.AESEncryption(128, tpm.EncryptIn))},
			PublicInfo: tpm.New2B(e.public(false)),
		}.Execute)
		switch {
		case errors.Is(err, tpm.TPMRCNVDefined):
			return errTaken
		case err == nil || !errors.Is(err, tpm.TPMRCNVSpace):
			return refusedOwner(err)
		}
		used, err := l.used()
		if err != nil {
			return err
		}
		if reclaimed {
			return full(used)
		}
		reclaimed = true
		if err := l.reclaim(owner, used); err != nil {
			return err
		}
	}
}

// full says what to do about a chip without room.
func full(used []tpm.TPMHandle) error {
	var list []string
	for _, h := range used {
		list = append(list, fmt.Sprintf("%#x", uint32(h)))
	}
	return fmt.Errorf("%w; of its counters these are of keys of keyrack: %s", ErrFull, strings.Join(list, " "))
}

// used returns the indexes in our range that exist.
func (l *link) used() ([]tpm.TPMHandle, error) {
	list, err := l.handles(firstIndex, uint32(indexes))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(h tpm.TPMHandle) bool { return !ours(h) }), nil
}

// freeIndex returns a free index by chance, so that a number is seldom used twice in a row.
func freeIndex(used []tpm.TPMHandle) (tpm.TPMHandle, error) {
	var free []tpm.TPMHandle
	for h := firstIndex; h < firstIndex+indexes; h++ {
		if !slices.Contains(used, h) {
			free = append(free, h)
		}
	}
	if len(free) == 0 {
		return 0, full(used)
	}
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(free))))
	if err != nil {
		return 0, err
	}
	return free[n.Int64()], nil
}

// reclaim deletes counters that a Generate which was cut off defined and did not increment. One that another process is about to increment
// may be among them: its Generate fails, and harms nothing.
func (l *link) reclaim(owner []byte, used []tpm.TPMHandle) error {
	for _, h := range used {
		public, err := l.indexPublic(h)
		if err != nil {
			return err
		}
		mark, keyrack := strings.CutPrefix(string(public.AuthPolicy.Buffer), epochMark)
		if !keyrack || len(mark) != markSize || public.Attributes.Written {
			continue
		}
		if err := l.undefineAs(owner, epoch{index: h, mark: [markSize]byte([]byte(mark))}, false); err != nil {
			return err
		}
	}
	return nil
}

// indexPublic returns the public area of an index.
func (l *link) indexPublic(h tpm.TPMHandle) (*tpm.TPMSNVPublic, error) {
	reply, err := run(l, tpm.NVReadPublic{NVIndex: h}.Execute)
	if err != nil {
		return nil, err
	}
	public, err := reply.NVPublic.Contents()
	if err != nil {
		return nil, l.garbage(err)
	}
	return public, nil
}

// anyCount lets readEpoch take what it finds.
var anyCount []uint64

// readEpoch returns where a counter stands. It returns hsm.ErrBlob when it is gone, another stands there under its number, or it stands at none
// of the allowed. All of it is asked in one session that only the chip can answer in, and none concluded from an error code.
func (l *link) readEpoch(e epoch, allowed ...uint64) (uint64, error) {
	h, err := e.handle()
	if err != nil {
		return 0, err
	}
	s, _, err := tpm.HMACSession(l, tpm.TPMAlgSHA256, nonceSize, append(l.salted(nil), tpm.Audit())...)
	if err != nil {
		return 0, l.failed(err)
	}
	count, err := l.readAs(h, s)
	if flushed := l.flush(s.Handle()); err == nil {
		err = flushed
	}
	if err == nil && allowed != nil && !slices.Contains(allowed, count) {
		err = fmt.Errorf("%w: it was destroyed, its counter %#x has moved on", hsm.ErrBlob, uint32(e.index))
	}
	return count, err
}

// readAs reads the counter that has exactly this Name.
func (l *link) readAs(h tpm.NamedHandle, s tpm.Session) (uint64, error) {
	if used, err := l.handles(h.Handle, 1, s); err != nil {
		return 0, err
	} else if !slices.Contains(used, h.Handle) {
		return 0, fmt.Errorf("%w: it was destroyed, its counter %#x is gone", hsm.ErrBlob, uint32(h.Handle))
	}
	public, err := l.indexPublic(h.Handle)
	if err != nil {
		return 0, err
	}
	name, err := tpm.NVName(public)
	if err != nil {
		return 0, l.garbage(err)
	}
	// Once more in the session, whose HMAC has the Name in it: so it is the chip that says whose the index is.
	if _, err := run(l, tpm.NVReadPublic{NVIndex: tpm.NamedHandle{Handle: h.Handle, Name: *name}}.Execute, s); err != nil {
		return 0, err
	}
	if !bytes.Equal(name.Buffer, h.Name.Buffer) {
		return 0, fmt.Errorf("%w: it was destroyed, its counter %#x is another's now", hsm.ErrBlob, uint32(h.Handle))
	}
	reply, err := run(l, tpm.NVRead{AuthHandle: tpm.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: s}, NVIndex: h, Size: 8}.Execute)
	if err != nil {
		return 0, err
	}
	if len(reply.Data.Buffer) != 8 {
		return 0, l.garbage(fmt.Errorf("a counter of %d bytes", len(reply.Data.Buffer)))
	}
	return binary.BigEndian.Uint64(reply.Data.Buffer), nil
}

// increment adds one to a counter, which was or was not incremented before.
func (l *link) increment(owner []byte, e epoch, written bool) error {
	h, err := e.named(written)
	if err != nil {
		return err
	}
	_, err = run(l, tpm.NVIncrement{AuthHandle: tpm.AuthHandle{Handle: tpm.TPMRHOwner, Auth: l.once(owner)}, NVIndex: h}.Execute)
	return refusedOwner(err)
}

// undefine deletes a counter, if it is there.
func (l *link) undefine(owner []byte, e epoch) error {
	public, err := l.indexPublic(e.index)
	if errors.Is(err, tpm.TPMRCHandle) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(public.AuthPolicy.Buffer, e.public(false).AuthPolicy.Buffer) {
		return nil // another's
	}
	return l.undefineAs(owner, e, public.Attributes.Written)
}

// undefineAs deletes a counter by its Name, which the session's HMAC binds: never another that has its number.
func (l *link) undefineAs(owner []byte, e epoch, written bool) error {
	h, err := e.named(written)
	if err != nil {
		return err
	}
	_, err = run(l, tpm.NVUndefineSpace{AuthHandle: tpm.AuthHandle{Handle: tpm.TPMRHOwner, Auth: l.once(owner)}, NVIndex: h}.Execute)
	return refusedOwner(err)
}
