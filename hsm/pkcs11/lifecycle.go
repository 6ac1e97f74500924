//go:build cgo

package pkcs11

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
)

// Generate makes a key in the token, and reads back what it has become. Beside the errors of hsm.Provider it returns errors that wrap
// ErrFull or ErrAttributes; what was made is destroyed again then. A process that is killed in between may leave a key
// whose id nobody knows, unless it was planned.
func (t *Token) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	plan, err := t.Plan(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	return t.Make(ctx, spec, plan)
}

var _ hsm.Planner = (*Token)(nil)

// Plan draws the id of a key. The plan is a blob whose proof is zeros. No call into the module.
func (t *Token) Plan(ctx context.Context, spec hsm.Spec) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := t.errClosed(); err != nil {
		return nil, err
	}
	if !slices.Contains(t.about.Specs, spec) {
		return nil, hsm.ErrSpec
	}
	b := blob{spec: spec, binding: t.binding, proof: make([]byte, proofSize(spec))}
	_, _ = rand.Read(b.id[:]) // never fails
	return b.encode(), nil
}

// Make is Generate of what was planned.
func (t *Token) Make(ctx context.Context, spec hsm.Spec, plan []byte) (hsm.Key, []byte, error) {
	planned, err := t.parse(ctx, plan)
	if err != nil {
		return nil, nil, err
	}
	if planned.spec != spec || !planned.isPlan() {
		return nil, nil, hsm.ErrBlob
	}
	var made, taken blob
	begun := false // by a run after which the token was away: what it has left is ours
	err = t.do(ctx, job{
		alone: true,
		run: func(s session) (err error) {
			if err = t.clearWay(s, planned.id, begun); err != nil {
				return err
			}
			begun = true
			made, err = t.generate(s, planned)
			return err
		},
		taken: func() { taken = made },
	})
	if err != nil {
		return nil, nil, err
	}
	_, k, err := newKey(t, taken)
	return k, taken.encode(), err
}

// clearWay makes sure that no object has the id of a key that is to be made. One that is not ours to end is an error.
func (t *Token) clearWay(s session, id [idSize]byte, ours bool) error {
	if ours {
		_, err := t.erase(s, id)
		return err
	}
	all, err := s.find(anyClass, id)
	if err == nil && len(all) > 0 {
		err = fmt.Errorf("%w: %d objects have the id of a key that is to be made", ErrTwice, len(all))
	}
	return err
}

// generate makes a key that was planned and proves it, or leaves none.
func (t *Token) generate(s session, b blob) (blob, error) {
	b.proof = nil
	made, err := s.make(&b, 0)
	if isCode(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT) {
		made, err = s.make(&b, newer)
	}
	if err == nil {
		err = s.complete(&b, made)
	}
	if err == nil {
		err = s.ctx.Err() // nobody waits for the blob any more
	}
	if err != nil { // a module may have made a key all the same
		err = errors.Join(err, t.undo(s, b.id))
	}
	return b, err
}

// undo ends what a failed attempt has left, in another session: in the first one a search may be under way.
func (t *Token) undo(s session, id [idSize]byte) (err error) {
	if s.SessionHandle, err = t.newSession(s.conn.slot); err != nil {
		return err
	}
	_, err = t.erase(s, id)
	return errors.Join(err, called("C_CloseSession", s.CloseSession(s.SessionHandle)))
}

// make creates the objects of a key, and keeps of the public one no more than its point.
func (s session) make(b *blob, leaveOut int) (made pkcs11.ObjectHandle, err error) {
	private := template(b.spec, b.id, leaveOut)
	if b.spec == hsm.PRFSHA256 {
		made, err = s.GenerateKey(s.SessionHandle, mechanisms(pkcs11.CKM_GENERIC_SECRET_KEY_GEN), private)
		return made, makeError("C_GenerateKey", err)
	}
	public, made, err := s.GenerateKeyPair(s.SessionHandle, mechanisms(pkcs11.CKM_EC_KEY_PAIR_GEN), publicTemplate(b.id), private)
	if err != nil {
		return 0, makeError("C_GenerateKeyPair", err)
	}
	if b.proof, _, err = s.point(public); err != nil {
		return 0, err
	}
	return made, called("C_DestroyObject", s.DestroyObject(s.SessionHandle, public))
}

// makeError says what it means that a key cannot be made.
func makeError(function string, err error) error {
	switch {
	case isCode(err, pkcs11.CKR_DEVICE_MEMORY):
		return fmt.Errorf("%w: %s: %w", ErrFull, function, err)
	case isCode(err, pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_SESSION_READ_ONLY):
		return fmt.Errorf("%w: it is write-protected: %s: %w", ErrToken, function, err)
	}
	return called(function, err)
}

// complete checks what was made, and fills the proof of a PRF key.
func (s session) complete(b *blob, made pkcs11.ObjectHandle) error {
	all, err := s.find(classOf(b.spec), b.id)
	if err != nil {
		return err
	}
	if len(all) != 1 {
		return fmt.Errorf("%w: %d keys have the id of the new one", ErrReply, len(all))
	}
	if err := s.audit(made, b.spec); err != nil {
		return err
	}
	if b.spec == hsm.PRFSHA256 {
		b.proof = make([]byte, sha256.Size)
		return s.mac(made, b.proofInput(), b.proof)
	}
	k, _, err := newKey(nil, *b)
	if err != nil {
		return err
	}
	return k.prove(s, made)
}

// Load finds the key that blob names, and checks its attributes. Beside the errors of hsm.Provider it returns errors that wrap
// ErrAttributes or ErrTwice.
func (t *Token) Load(ctx context.Context, blob []byte) (hsm.Key, error) {
	b, err := t.parse(ctx, blob)
	if err != nil {
		return nil, err
	}
	if b.isPlan() {
		return nil, hsm.ErrBlob
	}
	b.proof = slices.Clone(b.proof) // the caller's blob is the caller's
	found, k, err := newKey(t, b)
	if err != nil {
		return nil, err
	}
	if err := found.use(ctx, job{}, func(session, pkcs11.ObjectHandle) error { return nil }); err != nil {
		return nil, err
	}
	return k, nil
}

// parse reads a blob of this token. Its proof is the caller's memory.
func (t *Token) parse(ctx context.Context, raw []byte) (blob, error) {
	if err := ctx.Err(); err != nil {
		return blob{}, err
	}
	if err := t.errClosed(); err != nil {
		return blob{}, err
	}
	b, ok := parseBlob(raw)
	if !ok || b.binding != t.binding {
		return blob{}, hsm.ErrBlob
	}
	return b, nil
}

// Destroy ends every object with the blob's id (C_DestroyObject), also one that was planted beside the key or has other attributes.
func (t *Token) Destroy(ctx context.Context, blob []byte) error {
	b, err := t.parse(ctx, blob)
	if err != nil {
		return err
	}
	destroyed := false // also by a run that failed after it: then the next finds less or none
	return t.do(ctx, job{alone: true, run: func(s session) error {
		any, err := t.erase(s, b.id)
		if destroyed = destroyed || any; err == nil && !destroyed {
			err = t.none(s)
		}
		return err
	}})
}

// erase ends every object with this id, and looks whether that is so. It reports whether there was any.
func (t *Token) erase(s session, id [idSize]byte) (any bool, err error) {
	all, err := s.find(anyClass, id)
	if err != nil {
		return false, err
	}
	for _, o := range all {
		err := s.DestroyObject(s.SessionHandle, o)
		t.nextEpoch() // also after an error: it may be gone whatever the module says
		if err != nil && !isCode(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			return any, called("C_DestroyObject", err)
		}
		any = true
	}
	if !any {
		return false, nil
	}
	left, err := s.find(anyClass, id)
	return true, errors.Join(err, errLeft(len(left)))
}

// errLeft says that objects have survived their end.
func errLeft(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%w: C_DestroyObject says that it destroyed what it did not", ErrReply)
}

// epochNow counts what was destroyed; nextEpoch counts one more.
func (t *Token) epochNow() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.epoch
}

func (t *Token) nextEpoch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.epoch++
}
