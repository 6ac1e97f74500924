package tpm2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	tpm "github.com/google/go-tpm/tpm2"

	"github.com/keyrack/keyrack/hsm"
)

// Sizes and values of FORMAT.md.
const (
	blobFormat = 'T'
	nameSize   = 32 // of a Name without its algorithm
	markSize   = 24
	blobHead   = 1 + 1 + 1 + nameSize + 4 + markSize + 8
	prfUnique  = 32
	signUnique = 64
	minPrivate = 32
	maxPrivate = 512
	sumSize    = 16
	epochMark  = "keyrack\x01"
)

// epoch is the NV counter that a key lives by: the key works while the counter stands at count.
type epoch struct {
	index tpm.TPMHandle
	mark  [markSize]byte // random: tells this index from every other that had or will have the same number
	count uint64
}

// public returns the index's public area. Nobody satisfies its authPolicy, nor need they: no attribute refers to it. It carries the
// mark into the Name, and tells whoever lists the token's indexes whose this is. Reading takes the index's empty
// authorization, incrementing and deleting the owner's.
func (e epoch) public(written bool) tpm.TPMSNVPublic {
	return tpm.TPMSNVPublic{
		NVIndex: e.index,
		NameAlg: tpm.TPMAlgSHA256,
		Attributes: tpm.TPMANV{
			OwnerWrite: true,
			AuthRead:   true,
			OwnerRead:  true,
			NoDA:       true,
			Written:    written,
			NT:         tpm.TPMNTCounter,
		},
		AuthPolicy: tpm.TPM2BDigest{Buffer: append([]byte(epochMark), e.mark[:]...)},
		DataSize:   8,
	}
}

// handle returns the index with the Name that it has once it was incremented.
func (e epoch) handle() (tpm.NamedHandle, error) { return e.named(true) }

func (e epoch) named(written bool) (tpm.NamedHandle, error) {
	public := e.public(written)
	name, err := tpm.NVName(&public)
	if err != nil {
		return tpm.NamedHandle{}, err
	}
	return tpm.NamedHandle{Handle: e.index, Name: *name}, nil
}

// check returns the command that a session must run before the key may be used: the counter equals count, TPM 2.0 Part 3, 23.9.
func (e epoch) check() (tpm.PolicyNV, error) {
	h, err := e.handle()
	if err != nil {
		return tpm.PolicyNV{}, err
	}
	return tpm.PolicyNV{
		AuthHandle: tpm.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm.PasswordAuth(nil)},
		NVIndex:    h,
		OperandB:   tpm.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, e.count)},
		Operation:  tpm.TPMEOEq,
	}, nil
}

// blob is what Generate returns, FORMAT.md. Nothing in it is secret.
type blob struct {
	spec    hsm.Spec
	pin     bool           // the key asks for the PIN
	parent  [nameSize]byte // Name of the storage root key, without its algorithm
	epoch   epoch
	unique  []byte // of the public area: digest, or X and Y
	private []byte // the contents of a TPM2B_PRIVATE
}

// bytes returns the blob as FORMAT.md has it.
func (b *blob) bytes() []byte {
	p := append(make([]byte, 0, blobHead+len(b.unique)+len(b.private)+sumSize), blobFormat, byte(b.spec), 0)
	if b.pin {
		p[2] = 1
	}
	p = append(p, b.parent[:]...)
	p = binary.BigEndian.AppendUint32(p, uint32(b.epoch.index))
	p = append(p, b.epoch.mark[:]...)
	p = binary.BigEndian.AppendUint64(p, b.epoch.count)
	p = append(p, b.unique...)
	p = append(p, b.private...)
	sum := sha256.Sum256(p)
	return append(p, sum[:sumSize]...)
}

// isPlan reports whether the blob is that of Plan: of a key that may not be there, and that nobody can load.
func (b *blob) isPlan() bool { return b.private == nil }

// equal reports whether both are the same bytes: what was not loaded was not proved.
func (b *blob) equal(other *blob) bool {
	return b == other || bytes.Equal(b.bytes(), other.bytes())
}

// parseBlob reads what bytes returned, and nothing else. Its digest tells damage, not malice. That it is a key of this token, only the
// token can tell: parent is the Name of its storage root key, and the private area is bound to all other fields through the
// public area, which public computes from them.
func parseBlob(p []byte) (*blob, error) {
	if len(p) < blobHead || p[0] != blobFormat {
		return nil, fmt.Errorf("%w: not a blob of a TPM", hsm.ErrBlob)
	}
	b := &blob{spec: hsm.Spec(p[1]), pin: p[2] == 1}
	size := uniqueSize(b.spec)
	private := len(p) - blobHead - size - sumSize
	plan := len(p) == blobHead+sumSize
	if size == 0 || p[2] > 1 || !plan && (private < minPrivate || private > maxPrivate) {
		return nil, fmt.Errorf("%w: damaged blob", hsm.ErrBlob)
	}
	if plan {
		size = 0
	}
	rest, tail := p[3:len(p)-sumSize], p[len(p)-sumSize:]
	rest = rest[copy(b.parent[:], rest):]
	b.epoch.index, rest = tpm.TPMHandle(binary.BigEndian.Uint32(rest)), rest[4:]
	rest = rest[copy(b.epoch.mark[:], rest):]
	b.epoch.count, rest = binary.BigEndian.Uint64(rest), rest[8:]
	b.unique, b.private = append(b.unique, rest[:size]...), append(b.private, rest[size:]...)
	if sum := sha256.Sum256(p[:len(p)-sumSize]); !bytes.Equal(sum[:sumSize], tail) || !ours(b.epoch.index) || plan != (b.epoch.count == 0) {
		return nil, fmt.Errorf("%w: damaged blob", hsm.ErrBlob)
	}
	return b, nil
}

// uniqueSize returns how long the unique field of a spec's blob is, or 0 for an unknown spec.
func uniqueSize(spec hsm.Spec) int {
	switch spec {
	case hsm.PRFSHA256:
		return prfUnique
	case hsm.SignP256:
		return signUnique
	}
	return 0
}

// public returns the key's public area. With unique unset it is the template to make one from.
func (b *blob) public() (*tpm.TPMTPublic, error) {
	policy, err := b.policy()
	if err != nil {
		return nil, err
	}
	p := &tpm.TPMTPublic{
		NameAlg: tpm.TPMAlgSHA256,
		ObjectAttributes: tpm.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			AdminWithPolicy:     true, // and the policy names no command: nobody changes the authorization value
			NoDA:                !b.pin,
			SignEncrypt:         true,
		},
		AuthPolicy: tpm.TPM2BDigest{Buffer: policy},
	}
	if b.spec == hsm.PRFSHA256 {
		p.Type = tpm.TPMAlgKeyedHash
		p.Parameters = tpm.NewTPMUPublicParms(p.Type, &tpm.TPMSKeyedHashParms{Scheme: tpm.TPMTKeyedHashScheme{
			Scheme:  tpm.TPMAlgHMAC,
			Details: tpm.NewTPMUSchemeKeyedHash(tpm.TPMAlgHMAC, &tpm.TPMSSchemeHMAC{HashAlg: tpm.TPMAlgSHA256}),
		}})
		p.Unique = tpm.NewTPMUPublicID(p.Type, &tpm.TPM2BDigest{Buffer: b.unique})
		return p, nil
	}
	p.Type = tpm.TPMAlgECC
	p.Parameters = tpm.NewTPMUPublicParms(p.Type, &tpm.TPMSECCParms{
		Scheme: tpm.TPMTECCScheme{
			Scheme:  tpm.TPMAlgECDSA,
			Details: tpm.NewTPMUAsymScheme(tpm.TPMAlgECDSA, &tpm.TPMSSigSchemeECDSA{HashAlg: tpm.TPMAlgSHA256}),
		},
		CurveID: tpm.TPMECCNistP256,
	})
	half := len(b.unique) / 2
	p.Unique = tpm.NewTPMUPublicID(p.Type, &tpm.TPMSECCPoint{
		X: tpm.TPM2BECCParameter{Buffer: b.unique[:half]},
		Y: tpm.TPM2BECCParameter{Buffer: b.unique[half:]},
	})
	return p, nil
}

// policy returns the key's authPolicy: the epoch, then with a PIN the authorization value.
func (b *blob) policy() ([]byte, error) {
	c, err := tpm.NewPolicyCalculator(tpm.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	check, err := b.epoch.check()
	if err != nil {
		return nil, err
	}
	if err := check.Update(c); err != nil {
		return nil, err
	}
	if b.pin {
		if err := (tpm.PolicyAuthValue{}).Update(c); err != nil {
			return nil, err
		}
	}
	return c.Hash().Digest, nil
}

// setUnique takes the unique field out of the public area of a new key. It reports false for one whose coordinates the chip gives
// shorter than they are: the Name would then depend on how they are written.
func (b *blob) setUnique(p *tpm.TPMTPublic) (bool, error) {
	if b.spec == hsm.PRFSHA256 {
		digest, err := p.Unique.KeyedHash()
		if err != nil {
			return false, err
		}
		b.unique = digest.Buffer
		return len(b.unique) == prfUnique, nil
	}
	point, err := p.Unique.ECC()
	if err != nil {
		return false, err
	}
	b.unique = append(append([]byte(nil), point.X.Buffer...), point.Y.Buffer...)
	return len(point.X.Buffer) == signUnique/2 && len(b.unique) == signUnique, nil
}
