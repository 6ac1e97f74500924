package tpm2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	tpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

// counter is the public area that FORMAT.md gives a counter, whose index and mark stand in a blob.
func counter(blob []byte, written bool) tpm.TPMSNVPublic {
	return tpm.TPMSNVPublic{
		NVIndex:    tpm.TPMHandle(binary.BigEndian.Uint32(blob[35:])),
		NameAlg:    tpm.TPMAlgSHA256,
		Attributes: tpm.TPMANV{OwnerWrite: true, AuthRead: true, OwnerRead: true, NoDA: true, Written: written, NT: tpm.TPMNTCounter},
		AuthPolicy: tpm.TPM2BDigest{Buffer: append([]byte("keyrack\x01"), blob[39:63]...)},
		DataSize:   8,
	}
}

func named(t *testing.T, p tpm.TPMSNVPublic) tpm.NamedHandle {
	t.Helper()
	name, err := tpm.NVName(&p)
	if err != nil {
		t.Fatal(err)
	}
	return tpm.NamedHandle{Handle: p.NVIndex, Name: *name}
}

func define(t *testing.T, r transport.TPM, p tpm.TPMSNVPublic) {
	t.Helper()
	do(t, r, tpm.NVDefineSpace{AuthHandle: tpm.TPMRHOwner, PublicInfo: tpm.New2B(p)}.Execute)
}

func increment(t *testing.T, r transport.TPM, h tpm.NamedHandle) {
	t.Helper()
	do(t, r, tpm.NVIncrement{AuthHandle: tpm.TPMRHOwner, NVIndex: h}.Execute)
}

// TestNoCopyComesBack: whoever has the owner's authorization and a copy of everything makes the counter of a destroyed key anew. It has the same
// Name, but its count has passed: the chip's own policy check refuses the key.
func TestNoCopyComesBack(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	p := open(t, tpm2.Config{Path: v.Path()})
	k, blob := generate(t, p, hsm.PRFSHA256)
	prf(t, k, "input")
	if err := p.Destroy(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	for step := range 4 {
		_ = p.Close()
		raw(t, v, func(r transport.TPM) {
			h := named(t, counter(blob, step > 0))
			switch step {
			case 0:
				define(t, r, counter(blob, false))
			case 1, 2:
				increment(t, r, named(t, counter(blob, step > 1)))
			default:
				do(t, r, tpm.NVUndefineSpace{AuthHandle: tpm.TPMRHOwner, NVIndex: h}.Execute)
				define(t, r, counter(blob, false))
				increment(t, r, named(t, counter(blob, false)))
			}
			if step > 0 {
				refuses(t, r, blob)
			}
		})
		p = open(t, tpm2.Config{Path: v.Path()})
		for name, err := range map[string]error{"Load": second(p.Load(t.Context(), blob)), "Destroy": p.Destroy(t.Context(), blob)} {
			if !errors.Is(err, hsm.ErrBlob) {
				t.Errorf("step %d: %s: %v", step, name, err)
			}
		}
	}
}

// refuses checks that the chip itself finds the counter past the blob's count.
func refuses(t *testing.T, r transport.TPM, blob []byte) {
	t.Helper()
	s, end, err := tpm.PolicySession(r, tpm.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	h := named(t, counter(blob, true))
	check := tpm.PolicyNV{
		AuthHandle:    tpm.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm.PasswordAuth(nil)},
		NVIndex:       h,
		PolicySession: s.Handle(),
		OperandB:      tpm.TPM2BOperand{Buffer: blob[63:71]},
		Operation:     tpm.TPMEOEq,
	}
	if _, err := check.Execute(r); !errors.Is(err, tpm.TPMRCPolicy) {
		t.Errorf("the chip's policy check returned %v", err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
}

// TestHalfDestroyed: a key whose counter was incremented but not deleted is gone, and the next Destroy makes the room free.
func TestHalfDestroyed(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	p := open(t, tpm2.Config{Path: v.Path()})
	_, blob := generate(t, p, hsm.PRFSHA256)
	_, kept := generate(t, p, hsm.PRFSHA256)
	_ = p.Close()
	raw(t, v, func(r transport.TPM) { increment(t, r, named(t, counter(blob, true))) })
	p = open(t, tpm2.Config{Path: v.Path()})
	if _, err := p.Load(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("Load: %v", err)
	}
	for _, want := range []error{nil, hsm.ErrBlob} {
		if err := p.Destroy(t.Context(), blob); !errors.Is(err, want) {
			t.Errorf("Destroy: %v, want %v", err, want)
		}
	}
	if _, err := p.Load(t.Context(), kept); err != nil {
		t.Error(err)
	}
	if list, err := p.Indexes(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("counters %x, %v", list, err)
	}
}

// TestIndexOfAnother: the number of a destroyed key's counter serves another. The old blob does not reach it.
func TestIndexOfAnother(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	p := open(t, tpm2.Config{Path: v.Path()})
	_, blob := generate(t, p, hsm.PRFSHA256)
	if err := p.Destroy(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	another := bytes.Clone(blob)
	another[40] ^= 1
	raw(t, v, func(r transport.TPM) {
		define(t, r, counter(another, false))
		increment(t, r, named(t, counter(another, false)))
	})
	p = open(t, tpm2.Config{Path: v.Path()})
	for name, err := range map[string]error{"Load": second(p.Load(t.Context(), blob)), "Destroy": p.Destroy(t.Context(), blob)} {
		if !errors.Is(err, hsm.ErrBlob) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := p.Indexes(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("counters %x, %v", list, err)
	}
}

// TestBinding: a byte that was changed and the digest repaired gives no key: the chip binds all fields.
func TestBinding(t *testing.T) {
	t.Parallel()
	p := open(t, tpm2.Config{Path: swtpm.Start(t).Path()})
	for _, spec := range []hsm.Spec{hsm.PRFSHA256, hsm.SignP256} {
		_, blob := generate(t, p, spec)
		for i := range blob[:len(blob)-16] {
			bad := bytes.Clone(blob)
			bad[i] ^= 1
			tpm2.Repair(bad)
			if _, err := p.Load(t.Context(), blob); err != nil { // so that it is loaded
				t.Fatal(err)
			}
			if k, err := p.Load(t.Context(), bad); !errors.Is(err, hsm.ErrBlob) || k != nil {
				t.Errorf("%v, byte %d: %v", spec, i, err)
			}
		}
		if _, err := p.Load(t.Context(), blob); err != nil {
			t.Error(err)
		}
	}
}

// TestFormat: the key is what FORMAT.md says, and the chip lets nobody use or change it who does not satisfy its policy.
func TestFormat(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	p := open(t, tpm2.Config{Path: v.Path()})
	_, blob := generate(t, p, hsm.PRFSHA256)
	_ = p.Close()
	policy, err := tpm.NewPolicyCalculator(tpm.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	check := tpm.PolicyNV{NVIndex: named(t, counter(blob, true)), OperandB: tpm.TPM2BOperand{Buffer: blob[63:71]}, Operation: tpm.TPMEOEq}
	if err := check.Update(policy); err != nil {
		t.Fatal(err)
	}
	public := tpm.TPMTPublic{
		Type: tpm.TPMAlgKeyedHash, NameAlg: tpm.TPMAlgSHA256, AuthPolicy: tpm.TPM2BDigest{Buffer: policy.Hash().Digest},
		ObjectAttributes: tpm.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, AdminWithPolicy: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm.NewTPMUPublicParms(tpm.TPMAlgKeyedHash, &tpm.TPMSKeyedHashParms{Scheme: tpm.TPMTKeyedHashScheme{
			Scheme: tpm.TPMAlgHMAC, Details: tpm.NewTPMUSchemeKeyedHash(tpm.TPMAlgHMAC, &tpm.TPMSSchemeHMAC{HashAlg: tpm.TPMAlgSHA256})}}),
		Unique: tpm.NewTPMUPublicID(tpm.TPMAlgKeyedHash, &tpm.TPM2BDigest{Buffer: blob[71:103]}),
	}
	raw(t, v, func(r transport.TPM) {
		srk := do(t, r, tpm.ReadPublic{ObjectHandle: tpm.TPMHandle(0x81000001)}.Execute)
		if !bytes.Equal(srk.Name.Buffer[2:], blob[3:35]) {
			t.Errorf("the SRK's Name is %x", srk.Name.Buffer)
		}
		parent := tpm.NamedHandle{Handle: 0x81000001, Name: srk.Name}
		k := do(t, r, tpm.Load{ParentHandle: parent, InPrivate: tpm.TPM2BPrivate{Buffer: blob[103 : len(blob)-16]}, InPublic: tpm.New2B(public)}.Execute)
		use := tpm.Hmac{Buffer: tpm.TPM2BMaxBuffer{Buffer: []byte("x")}, HashAlg: tpm.TPMAlgSHA256}
		for name, auth := range map[string]tpm.Session{"password": tpm.PasswordAuth(nil), "HMAC": tpm.HMAC(tpm.TPMAlgSHA256, 16), "empty policy": tpm.Policy(tpm.TPMAlgSHA256, 16, nothing)} {
			use.Handle = tpm.AuthHandle{Handle: k.ObjectHandle, Name: k.Name, Auth: auth}
			if _, err := use.Execute(r); !errors.Is(err, tpm.TPMRCAuthUnavailable) && !errors.Is(err, tpm.TPMRCPolicyFail) {
				t.Errorf("used with %s: %v", name, err)
			}
		}
		change := tpm.ObjectChangeAuth{ObjectHandle: tpm.AuthHandle{Handle: k.ObjectHandle, Name: k.Name, Auth: tpm.PasswordAuth(nil)}, ParentHandle: parent}
		if _, err := change.Execute(r); !errors.Is(err, tpm.TPMRCAuthUnavailable) && !errors.Is(err, tpm.TPMRCAuthType) {
			t.Errorf("changed its authorization value: %v", err)
		}
	})
}

func nothing(transport.TPM, tpm.TPMISHPolicy, tpm.TPM2BNonce) error { return nil }

// TestSubstitution: the private area of one key does not serve with the fields of another.
func TestSubstitution(t *testing.T) {
	t.Parallel()
	p := open(t, tpm2.Config{Path: swtpm.Start(t).Path()})
	_, doomed := generate(t, p, hsm.PRFSHA256)
	_, kept := generate(t, p, hsm.PRFSHA256)
	if err := p.Destroy(t.Context(), doomed); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{71, 103} { // the destroyed key, with the counter of the living one
		mixed := append(bytes.Clone(kept[:at]), doomed[at:]...)
		tpm2.Repair(mixed)
		if k, err := p.Load(t.Context(), mixed); !errors.Is(err, hsm.ErrBlob) || k != nil {
			t.Errorf("joined at %d: %v", at, err)
		}
	}
}

// TestFull: a chip without room says so and names our counters; those that no key can live by make room.
func TestFull(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	p := open(t, tpm2.Config{Path: v.Path()})
	_, blob := generate(t, p, hsm.PRFSHA256)
	_ = p.Close()
	stray := bytes.Clone(blob)
	binary.BigEndian.PutUint32(stray[35:], binary.BigEndian.Uint32(blob[35:])^1)
	raw(t, v, func(r transport.TPM) {
		define(t, r, counter(stray, false))
		for i := uint32(0); ; i++ {
			other := counter(blob, false)
			other.NVIndex = tpm.TPMHandle(0x01900000 + i)
			if _, err := (tpm.NVDefineSpace{AuthHandle: tpm.TPMRHOwner, PublicInfo: tpm.New2B(other)}).Execute(r); err != nil {
				break
			}
		}
	})
	p = open(t, tpm2.Config{Path: v.Path()})
	_, second := generate(t, p, hsm.PRFSHA256)
	_, _, err := p.Generate(t.Context(), hsm.PRFSHA256)
	if !errors.Is(err, tpm2.ErrFull) || !strings.Contains(err.Error(), fmt.Sprintf("%#x", binary.BigEndian.Uint32(blob[35:]))) {
		t.Errorf("a full chip: %v", err)
	}
	for _, b := range [][]byte{blob, second} {
		if _, err := p.Load(t.Context(), b); err != nil {
			t.Error(err)
		}
		if err := p.Destroy(t.Context(), b); err != nil {
			t.Error(err)
		}
	}
	_, _ = generate(t, p, hsm.PRFSHA256)
}

// FuzzBlob: what is accepted is what is written.
func FuzzBlob(f *testing.F) {
	for _, size := range []int{0, 70, 103 + 32 + 16, 135 + 100 + 16} {
		b := make([]byte, size)
		if size > 70 {
			b[0], b[1] = 'T', byte(1+size/200)
			copy(b[35:], []byte{0x01, 0x80, 0x6b, 0x10})
			tpm2.Repair(b)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := tpm2.Canonical(b)
		if err != nil {
			if !errors.Is(err, hsm.ErrBlob) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x is written %x", b, again)
		}
		b[len(b)/2] ^= 1
		if _, err := tpm2.Canonical(b); err == nil {
			t.Error("damage goes unseen")
		}
	})
}

// FuzzReplies: a chip may answer anything.
func FuzzReplies(f *testing.F) {
	ok := "\x00\x0a\x80\x01\x00\x00\x00\x0a\x00\x00\x00\x00"
	none := "\x00\x13\x80\x01\x00\x00\x00\x13\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"
	f.Add([]byte(""))
	f.Add([]byte(ok))
	f.Add([]byte("\x00\x0a\x80\x01\x00\x00\x00\x0a\x00\x00\x01\x00" + ok + ok + none + none))
	f.Add([]byte(ok + none + none + string(publicReply(f))))
	f.Fuzz(func(t *testing.T, script []byte) {
		if err := tpm2.Converse(script); err == nil {
			t.Log("a whole conversation")
		}
	})
}

// publicReply is how a chip answers TPM2_ReadPublic of an SRK, with its length.
func publicReply(f *testing.F) []byte {
	f.Helper()
	public := tpm.Marshal(tpm.New2B(tpm.ECCSRKTemplate))
	name, err := tpm.ObjectName(&tpm.ECCSRKTemplate)
	if err != nil {
		f.Fatal(err)
	}
	body := append(public, tpm.Marshal(*name)...)
	body = append(body, tpm.Marshal(*name)...)
	reply := binary.BigEndian.AppendUint32([]byte{0x80, 1}, uint32(10+len(body)))
	reply = append(append(reply, 0, 0, 0, 0), body...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)
}
