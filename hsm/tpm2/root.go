package tpm2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	tpm "github.com/google/go-tpm/tpm2"

	"github.com/keyrack/keyrack/hsm"
)

// rootKeys is where the storage root key may stand: TCG's provisioning guidance has it at the first, and at the second where the first
// is an RSA key.
var rootKeys = []tpm.TPMHandle{0x81000001, 0x81000002}

// errRootKeys is returned when both places of rootKeys hold other keys.
var errRootKeys = errors.New("tpm2: the storage root keys at 0x81000001 and 0x81000002 are no P-256 storage keys")

// rootKey is the storage root key: parent of all our keys, and what sessions are salted with.
type rootKey struct {
	handle tpm.TPMHandle
	public tpm.TPMTPublic
	name   tpm.TPM2BName
}

// digest returns the Name without its algorithm.
func (r *rootKey) digest() (d [nameSize]byte) {
	copy(d[:], r.name.Buffer[len(r.name.Buffer)-nameSize:])
	return d
}

// auth returns the key as parent, whose authorization value is empty, for one command.
func (r *rootKey) auth(s tpm.Session) tpm.AuthHandle {
	return tpm.AuthHandle{Handle: r.handle, Name: r.name, Auth: s}
}

// findRoot returns the token's storage root key. Where there is none, first has it made; later it is ErrReplaced, and nothing is written
// to a chip that is not the one of Open.
func (l *link) findRoot(owner []byte, first bool) (*rootKey, error) {
	var free tpm.TPMHandle
	for _, h := range rootKeys {
		r, err := l.readRoot(h)
		switch {
		case errors.Is(err, tpm.TPMRCHandle):
			if free == 0 {
				free = h
			}
		case err != nil:
			return nil, err
		case r != nil:
			return r, nil
		}
	}
	switch {
	case free == 0:
		return nil, errRootKeys
	case !first:
		return nil, ErrReplaced
	}
	if err := l.makeRoot(free, owner); err != nil {
		return nil, fmt.Errorf("make the storage root key: %w", err)
	}
	r, err := l.readRoot(free)
	if err == nil && r == nil {
		err = errRootKeys
	}
	return r, err
}

// readRoot returns the key at h, or nil when it is no P-256 storage key. The Name is computed, not believed.
func (l *link) readRoot(h tpm.TPMHandle) (*rootKey, error) {
	reply, err := run(l, tpm.ReadPublic{ObjectHandle: h}.Execute)
	if err != nil {
		return nil, err
	}
	public, err := reply.OutPublic.Contents()
	if err != nil {
		return nil, l.garbage(err)
	}
	if !storage(public) {
		return nil, nil
	}
	name, err := tpm.ObjectName(public)
	if err != nil || !bytes.Equal(name.Buffer, reply.Name.Buffer) {
		return nil, l.garbage(errors.New("a Name that is not of the key"))
	}
	if _, err := tpm.ImportEncapsulationKey(public); err != nil {
		return nil, l.garbage(err)
	}
	return &rootKey{h, *public, *name}, nil
}

// storage reports whether a public area is of an ECC P-256 storage key as TCG's template has it, whatever its DA attribute.
func storage(p *tpm.TPMTPublic) bool {
	a := p.ObjectAttributes
	a.NoDA = true
	if p.Type != tpm.TPMAlgECC || p.NameAlg != tpm.TPMAlgSHA256 || a != tpm.ECCSRKTemplate.ObjectAttributes {
		return false
	}
	want, err := tpm.ECCSRKTemplate.Parameters.ECCDetail()
	got, err2 := p.Parameters.ECCDetail()
	return err == nil && err2 == nil && bytes.Equal(tpm.Marshal(want), tpm.Marshal(got))
}

// makeRoot makes the key of TCG's template, which the owner's seed determines, and keeps it at h.
func (l *link) makeRoot(h tpm.TPMHandle, owner []byte) error {
	authorized := func() tpm.AuthHandle {
		return tpm.AuthHandle{Handle: tpm.TPMRHOwner, Auth: tpm.HMAC(tpm.TPMAlgSHA256, nonceSize, tpm.Auth(owner))}
	}
	made, err := run(l, tpm.CreatePrimary{PrimaryHandle: authorized(), InPublic: tpm.New2B(tpm.ECCSRKTemplate)}.Execute)
	if err != nil {
		return refusedOwner(err)
	}
	_, err = run(l, tpm.EvictControl{
		Auth:             authorized(),
		ObjectHandle:     tpm.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
		PersistentHandle: h,
	}.Execute)
	if err != nil {
		return errors.Join(refusedOwner(err), l.flush(made.ObjectHandle))
	}
	return l.flush(made.ObjectHandle)
}

// refusedOwner wraps the answer to a wrong owner authorization.
func refusedOwner(err error) error {
	if errors.Is(err, tpm.TPMRCAuthFail) || errors.Is(err, tpm.TPMRCBadAuth) {
		return fmt.Errorf("%w: %w", ErrOwner, err)
	}
	return err
}

// garbage ends the connection because of a reply that makes no sense.
func (l *link) garbage(err error) error {
	l.fault = fmt.Errorf("%w: %w", ErrGarbage, err)
	return l.fault
}

// properties returns the chip's properties from first on, at most count.
func (l *link) properties(first tpm.TPMPT, count uint32) (map[tpm.TPMPT]uint32, error) {
	reply, err := run(l, tpm.GetCapability{Capability: tpm.TPMCapTPMProperties, Property: uint32(first), PropertyCount: count}.Execute)
	if err != nil {
		return nil, err
	}
	list, err := reply.CapabilityData.Data.TPMProperties()
	if err != nil {
		return nil, l.garbage(err)
	}
	values := map[tpm.TPMPT]uint32{}
	for _, p := range list.TPMProperty {
		values[p.Property] = p.Value
	}
	return values, nil
}

// handles returns the handles that exist from first on, at most count.
func (l *link) handles(first tpm.TPMHandle, count uint32, s ...tpm.Session) ([]tpm.TPMHandle, error) {
	reply, err := run(l, tpm.GetCapability{Capability: tpm.TPMCapHandles, Property: uint32(first), PropertyCount: count}.Execute, s...)
	if err != nil {
		return nil, err
	}
	list, err := reply.CapabilityData.Data.Handles()
	if err != nil {
		return nil, l.garbage(err)
	}
	return list.Handle, nil
}

// describe asks the chip what it is.
func (l *link) describe() (hsm.Description, error) {
	v, err := l.properties(tpm.TPMPTManufacturer, 8)
	if err != nil {
		return hsm.Description{}, err
	}
	vendor := text(v[tpm.TPMPTVendorString1], v[tpm.TPMPTVendorString2], v[tpm.TPMPTVendorString3], v[tpm.TPMPTVendorString4])
	version := v[tpm.TPMPTFirmwareVersion1]
	d := hsm.Description{
		Kind:  "tpm2",
		Model: strings.Join(strings.Fields(fmt.Sprintf("%s %s firmware %d.%d", text(v[tpm.TPMPTManufacturer]), vendor, version>>16, version&0xffff)), " "),
		Specs: []hsm.Spec{hsm.PRFSHA256, hsm.SignP256},
	}
	if l.root != nil {
		digest := l.root.digest()
		d.Serial = fmt.Sprintf("%x", digest[:16])
	}
	// libtpms, the library under swtpm, calls itself so.
	if d.Development = strings.Contains(vendor, "SW TPM") || strings.Contains(vendor, "SW   TPM"); d.Development {
		d.Warning = "the TPM is a program: its keys are as safe as the machine that runs it"
	}
	return d, nil
}

// text returns the printable ASCII of the words, four characters each, TPM 2.0 Part 2, 6.13.
func text(words ...uint32) string {
	var b []byte
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return strings.TrimSpace(string(bytes.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, b)))
}
