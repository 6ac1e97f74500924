package pkcs11

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/keyrack/keyrack/hsm"
)

// Offsets and sizes of FORMAT.md, in bytes.
const (
	blobFormat  = 'P'
	blobVersion = 1
	bindingSize = 16
	idSize      = 16
	headerSize  = 3 + bindingSize + idSize
	pointSize   = 65 // uncompressed, SEC 1, section 2.3.3
	sumSize     = 8
)

// blob is what Generate hands out, parsed.
type blob struct {
	spec    hsm.Spec
	binding [bindingSize]byte
	id      [idSize]byte
	proof   []byte // of a PRF key its answer to the header, 32 bytes; of a signing key its public point, 65 bytes
}

// proofSize returns the length of the proof of a spec, or 0 for a spec without blobs.
func proofSize(spec hsm.Spec) int {
	switch spec {
	case hsm.PRFSHA256:
		return sha256.Size
	case hsm.SignP256:
		return pointSize
	}
	return 0
}

// header returns the bytes before the proof.
func (b *blob) header() []byte {
	h := append(make([]byte, 0, headerSize+pointSize+sumSize), blobFormat, blobVersion, byte(b.spec))
	h = append(h, b.binding[:]...)
	return append(h, b.id[:]...)
}

// encode returns the blob's bytes.
func (b *blob) encode() []byte {
	all := append(b.header(), b.proof...)
	sum := sha256.Sum256(all)
	return append(all, sum[:sumSize]...)
}

// isPlan reports whether the blob is that of Plan: of a key that may not be there, and that nobody can load.
func (b *blob) isPlan() bool { return len(bytes.Trim(b.proof, "\x00")) == 0 }

// parseBlob reads what encode wrote, and accepts nothing else. The sum tells damage, the proof malice. The proof is b's memory.
func parseBlob(b []byte) (parsed blob, ok bool) {
	if len(b) < headerSize || b[0] != blobFormat || b[1] != blobVersion {
		return parsed, false
	}
	parsed.spec = hsm.Spec(b[2])
	proof := proofSize(parsed.spec)
	if proof == 0 || len(b) != headerSize+proof+sumSize {
		return parsed, false
	}
	sum := sha256.Sum256(b[:headerSize+proof])
	if !bytes.Equal(sum[:sumSize], b[headerSize+proof:]) {
		return parsed, false
	}
	parsed.binding = [bindingSize]byte(b[3:])
	parsed.id = [idSize]byte(b[3+bindingSize:])
	parsed.proof = b[headerSize : headerSize+proof]
	return parsed, true
}

// bindingOf returns what ties a blob to the token that gave it.
func bindingOf(manufacturer, model, serial string) [bindingSize]byte {
	h := sha256.New()
	for _, part := range []string{"keyrack pkcs11 token", manufacturer, model, serial} {
		_ = binary.Write(h, binary.BigEndian, uint32(len(part))) // a hash takes everything
		h.Write([]byte(part))
	}
	return [bindingSize]byte(h.Sum(nil))
}

// proofInput returns what a PRF key is asked to prove itself. It begins with a letter, which no KDF input does: those begin
// with a counter of four bytes (SP 800-108r1, section 4.1).
func (b *blob) proofInput() []byte { return append([]byte("keyrack pkcs11 blob"), b.header()...) }
