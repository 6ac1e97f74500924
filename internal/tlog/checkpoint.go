package tlog

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// MaxNote is the largest signed note in bytes that [Open] looks at: sixteen post-quantum
// signatures fit.
const MaxNote = 128 << 10

// ErrCheckpoint is wrapped by errors about text that is not a checkpoint.
var ErrCheckpoint = errors.New("tlog: not a checkpoint")

// ErrSignature is wrapped by [Open] when no given key signed the note, or one did and its
// signature is wrong.
var ErrSignature = errors.New("tlog: note is not signed by a given key")

// Checkpoint is what a log says of itself at one moment (C2SP tlog-checkpoint). Extension lines
// are neither written nor accepted.
type Checkpoint struct {
	Origin string // the log's name: one line, not empty, without control characters
	Size   uint64 // leaves
	Root   Hash
}

// Text returns the checkpoint's three lines, the text that is signed.
func (c Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + c.Root.String() + "\n"
}

// ParseCheckpoint reads what [Checkpoint.Text] writes, and only that. Its errors wrap
// [ErrCheckpoint].
func ParseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("%w: want three lines", ErrCheckpoint)
	}
	c := Checkpoint{Origin: lines[0]}
	if !ValidOrigin(c.Origin) {
		return Checkpoint{}, fmt.Errorf("%w: bad origin", ErrCheckpoint)
	}
	var err error
	if c.Size, err = strconv.ParseUint(lines[1], 10, 64); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: bad size", ErrCheckpoint)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || copy(c.Root[:], root) != len(c.Root) || c.Text() != text {
		return Checkpoint{}, fmt.Errorf("%w: bad size or root", ErrCheckpoint)
	}
	return c, nil
}

// ValidOrigin reports whether s can be a log's origin and, since the log's key bears the same
// name, a key name: not empty, at most 255 bytes of UTF-8 without spaces, control characters or
// '+' (C2SP signed-note).
func ValidOrigin(s string) bool {
	if s == "" || len(s) > 255 || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r == '+' || r < ' ' || unicode.IsSpace(r) })
}

// Sign returns the checkpoint as a note with one signature line for each signer. Errors of the
// signers are passed on.
func (c Checkpoint) Sign(signers ...Signer) ([]byte, error) {
	if !ValidOrigin(c.Origin) {
		return nil, fmt.Errorf("%w: bad origin", ErrCheckpoint)
	}
	return note.Sign(&note.Note{Text: c.Text()}, signers...)
}

// Open checks a signed note of at most [MaxNote] bytes and returns its checkpoint. At least one
// of the keys must have signed it, and no signature by one of them may be wrong; lines of other
// keys are ignored (C2SP signed-note). Its errors wrap [ErrSignature] or [ErrCheckpoint].
func Open(msg []byte, keys ...Verifier) (Checkpoint, error) {
	if len(msg) > MaxNote {
		return Checkpoint{}, fmt.Errorf("%w: note of %d bytes", ErrCheckpoint, len(msg))
	}
	n, err := note.Open(msg, note.VerifierList(keys...))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	for _, sigs := range [][]note.Signature{n.Sigs, n.UnverifiedSigs} {
		for _, s := range sigs {
			if !canonical(s.Base64) {
				return Checkpoint{}, fmt.Errorf("%w: signature is not canonical base64", ErrSignature)
			}
		}
	}
	return ParseCheckpoint(n.Text)
}

// canonical refuses base64 with stray bits behind its last byte, so that no bit of a note can
// change unseen.
func canonical(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && base64.StdEncoding.EncodeToString(b) == s
}
