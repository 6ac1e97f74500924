package soft

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

// Offsets and sizes of FORMAT.md, in bytes.
const (
	magic       = "keyrackS\x01"
	countAt     = len(magic) + idSize
	entriesAt   = countAt + 2
	secretSize  = 32
	entrySize   = 1 + idSize + secretSize
	maxKeys     = 1024
	minFileSize = entriesAt + sha256.Size
	maxFileSize = minFileSize + maxKeys*entrySize
)

// newImage returns the image of a new token without keys.
func newImage() (image, error) {
	buf, err := securemem.New(minFileSize)
	if err != nil {
		return image{}, err
	}
	b := buf.Bytes()
	copy(b, magic)
	_, _ = rand.Read(b[len(magic):countAt]) // never fails: it ends the program rather than return an error
	image{buf}.finish()
	return image{buf}, nil
}

// with returns a copy of img that has one more key, and that key's id.
func (img image) with(spec hsm.Spec, id [idSize]byte) (image, error) {
	old := img.bytes()
	end := len(old) - sha256.Size
	if err := checkSpec(spec); err != nil {
		return image{}, err
	}
	if img.count() == maxKeys {
		return image{}, ErrFull
	}
	if _, there := img.find(id); there {
		return image{}, hsm.ErrBlob
	}
	buf, err := securemem.New(len(old) + entrySize)
	if err != nil {
		return image{}, err
	}
	grown := image{buf}
	b := grown.bytes()
	copy(b, old[:end])
	binary.BigEndian.PutUint16(b[countAt:], uint16(img.count()+1))
	// the old digest's place is where the new key begins
	b[end] = byte(spec)
	copy(b[end+1:], id[:])
	if err := generate(spec, grown.secret(end)); err != nil {
		grown.free()
		return image{}, err
	}
	grown.finish()
	return grown, nil
}

// checkSpec returns hsm.ErrSpec for a kind of key that soft tokens do not make.
func checkSpec(spec hsm.Spec) error {
	if spec != hsm.PRFSHA256 && spec != hsm.SignP256 {
		return hsm.ErrSpec
	}
	return nil
}

// without returns a copy of img that lacks the key at offset at. The keys behind it move forward.
func (img image) without(at int) (image, error) {
	old := img.bytes()
	buf, err := securemem.New(len(old) - entrySize)
	if err != nil {
		return image{}, err
	}
	less := image{buf}
	b := less.bytes()
	copy(b[copy(b, old[:at]):], old[at+entrySize:])
	binary.BigEndian.PutUint16(b[countAt:], uint16(img.count()-1))
	less.finish()
	return less, nil
}

// generate fills secret with a new key of spec: 32 random bytes, or a P-256 scalar by FIPS 186-5, appendix A.2.
func generate(spec hsm.Spec, secret []byte) (err error) {
	if spec == hsm.PRFSHA256 {
		_, err = rand.Read(secret)
		return err
	}
	securemem.Do(func() {
		var key *ecdsa.PrivateKey
		var scalar []byte
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return
		}
		if scalar, err = key.Bytes(); err == nil {
			copy(secret, scalar)
			securemem.Wipe(scalar)
		}
	})
	return err
}

// finish writes the digest at the end.
func (img image) finish() {
	b := img.bytes()
	end := len(b) - sha256.Size
	sum := sha256.Sum256(b[:end])
	copy(b[end:], sum[:])
}

// check refuses every image that this package would not have written, but for scalars out of range, which Load finds: one bad key
// must not take the others away. Lengths are judged before anything is read at an offset.
func (img image) check() error {
	b := img.bytes()
	if len(b) < minFileSize || !bytes.HasPrefix(b, []byte(magic)) {
		return fmt.Errorf("%w: it does not start as a token file of version 1", ErrDamaged)
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return fmt.Errorf("%w: its SHA-256 differs", ErrDamaged)
	}
	if n := img.count(); n > maxKeys || len(b) != minFileSize+n*entrySize {
		return fmt.Errorf("%w: %d bytes do not hold %d keys", ErrDamaged, len(b), n)
	}
	seen := map[[idSize]byte]bool{}
	for at := entriesAt; at < end; at += entrySize {
		id, spec := [idSize]byte(b[at+1:]), img.spec(at)
		if seen[id] {
			return fmt.Errorf("%w: two keys have id %x", ErrDamaged, id)
		}
		seen[id] = true
		if spec != hsm.PRFSHA256 && spec != hsm.SignP256 {
			return fmt.Errorf("%w: key %x has an unknown spec %d", ErrDamaged, id, spec)
		}
	}
	return nil
}

// find returns the offset of the key with the given id.
func (img image) find(id [idSize]byte) (at int, ok bool) {
	b := img.bytes()
	for at := entriesAt; at < len(b)-sha256.Size; at += entrySize {
		if [idSize]byte(b[at+1:]) == id {
			return at, true
		}
	}
	return 0, false
}

// The accessors below read an image that check has passed or newImage has made.

func (img image) tokenID() [idSize]byte { return [idSize]byte(img.bytes()[len(magic):]) }
func (img image) count() int            { return int(binary.BigEndian.Uint16(img.bytes()[countAt:])) }
func (img image) spec(at int) hsm.Spec  { return hsm.Spec(img.bytes()[at]) }

// secret returns the secret of the key at offset at. It must not be used after the view that showed the image.
func (img image) secret(at int) []byte { return img.bytes()[at+1+idSize : at+entrySize] }

// image is the bytes of a token file, in locked memory. It is immutable once a Token has it: one key more or less makes a new image.
type image struct{ buf *securemem.Buffer }

func (img image) bytes() []byte { return img.buf.Bytes() }
func (img image) free()         { img.buf.Free() }
func (img image) closed() bool  { return img.buf == nil }
