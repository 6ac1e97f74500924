// Package audit is the appliance's tamper-evident log: every operation leaves one record, and
// no reply leaves before its record is on disk.
//
// Read first: [Record], what is kept of an operation; [Trail], which a connection fills during
// a burst; and [Log], which makes trails durable, one write and one sync for whatever waits.
// The records are the leaves of an RFC 6962 tree; [Verify] proves offline, from the files and a
// public key alone, that they are one consistent log up to a signed checkpoint. The bytes are
// in FORMAT.md.
//
// What it does not do: it decides nothing about requests, it prints nothing, and it deletes
// no record. Who reads a log as it grows (export, usage, alarms) is a follower: [Log.Follow].
// That nothing was cut off behind the newest checkpoint only copies of checkpoints elsewhere
// can prove; [VerifyOptions] takes them.
package audit

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/tlog"
)

// Position is a place in the log: the number of records that are durable when it is reached. A
// record's own number, counted from 0, is the position before it.
type Position uint64

var (
	// ErrDead is wrapped by everything a log answers after a write or a sync failed: what the
	// disk then holds is unknown, and a second sync would lie about it. Only a new process,
	// which reads the files again, goes on.
	ErrDead = errors.New("audit: log is dead after a failed write")

	// ErrFull is wrapped by [Log.Err] while the disk has no room for another segment and less
	// than the reserve is left, and by [Log.Append] when the reserve is used up too. It passes
	// when there is room again.
	ErrFull = errors.New("audit: no space left for records")

	// ErrClosed is returned by a log after [Log.Close].
	ErrClosed = errors.New("audit: log is closed")

	// ErrTooLarge is returned by [Log.Append] for a trail with a record longer than
	// [MaxRecord], or than a small segment can hold.
	ErrTooLarge = errors.New("audit: record is too large")

	// ErrLocked is what [Config.StartKey] wraps while there is no key: the batches then say so
	// and carry no MAC.
	ErrLocked = errors.New("audit: no key while locked")

	// ErrDamaged is wrapped by every [Damage]: the files are not what was written.
	ErrDamaged = errors.New("audit: log is damaged")

	// ErrTruncated is wrapped by a [Damage] when records are missing at the end that a
	// checkpoint covers.
	ErrTruncated = errors.New("audit: log is shorter than its checkpoint")

	// ErrForked is wrapped by a [Damage] when the records are not those that a checkpoint
	// covers.
	ErrForked = errors.New("audit: log contradicts its checkpoint")

	// ErrCheckpoint is wrapped when the newest checkpoint is missing, not signed by the right
	// key, or of another log.
	ErrCheckpoint = errors.New("audit: bad checkpoint")

	// ErrInUse is wrapped by [Open] when another process has the same log open.
	ErrInUse = errors.New("audit: log is open in another process")
)

// Durability says what has happened to a record when it counts as durable.
type Durability uint8

const (
	// Synced records are on stable storage: written and synced. It is the default.
	Synced Durability = iota
	// Written records are in the hands of the kernel: they survive the process, not a power
	// cut. Checkpoints still cover synced records only.
	Written
)

// String returns the word that the configuration uses.
func (d Durability) String() string {
	if d == Written {
		return "written"
	}
	return "synced"
}

// Signer is the key of the checkpoints, ECDSA on P-256. It may live in a token.
type Signer struct {
	// Public is the public half. Every signature is checked against it before it is stored.
	Public *ecdsa.PublicKey
	// SignDigest signs a SHA-256 digest; the signature is ASN.1 DER.
	SignDigest func(ctx context.Context, digest []byte) ([]byte, error)
}

// Limits and defaults of a log.
const (
	// MaxRecord is the longest encoded record in bytes.
	MaxRecord = 256 << 10

	// DefaultSegment, MinSegment and MaxSegment bound the size of one file in bytes, a multiple of SegmentStep.
	DefaultSegment = 64 << 20
	MinSegment     = 16 << 10
	MaxSegment     = 1 << 30
	SegmentStep    = headerBytes

	defaultCheckpoint = time.Second

	maxPending = 8 << 20 // bytes of records that may wait for the committer before Append blocks
	maxBatch   = 1 << 20 // bytes of records in one batch: bounds what a reader needs in memory
)

// Config is what a log is opened with.
type Config struct {
	// Files is the log's folder. Nothing else may write to it.
	Files Files
	// Origin names the log in its checkpoints (C2SP tlog-checkpoint): 1 to 255 bytes without
	// spaces, control characters or '+'. It cannot change.
	Origin string
	// Signer signs the checkpoints. Its public key cannot change.
	Signer Signer
	// StartKey returns the MAC key (32 bytes) that belongs to a nonce, the KDF under label a1 of a
	// key that only the appliance has; the log frees it. It is asked at the start, for the
	// newest nonces already in the files and for a fresh one, and again by [Log.Rekey]. Nil, or
	// an error that wraps [ErrLocked], means that there is no key now.
	StartKey func(nonce [32]byte) (*securemem.Buffer, error)
	// Clock stamps [State.LastCheckpoint].
	Clock *clock.Clock
	// SegmentBytes is the size of one file: a multiple of 4096 from 16 KiB to 1 GiB, 64 MiB by
	// default. It may change between starts.
	SegmentBytes int64
	// Reserve is how many bytes must be left, while no further segment can be made, for
	// [Log.Err] not to report [ErrFull]; a quarter of a segment by default.
	Reserve int64
	// CheckpointEvery is the least time between two checkpoints, a second by default.
	CheckpointEvery time.Duration
	// Durability is [Synced] by default.
	Durability Durability
	// OnChange is told when the log becomes full or no longer full, when it dies, and when
	// checkpoints begin or cease to fail. It may be nil. It is called on the log's goroutines,
	// one call at a time, and may ask nothing of the log but State, Err, Durable and Checkpoint.
	OnChange func(State)

	inline   bool // tests: no goroutines, every Append commits and prepares by itself
	skipSync bool // tests: a failpoint that must make the crash test find lost records
}

// withDefaults fills in what was left zero.
func (c Config) withDefaults() Config {
	if c.SegmentBytes == 0 {
		c.SegmentBytes = DefaultSegment
	}
	if c.Reserve == 0 {
		c.Reserve = c.SegmentBytes / 4
	}
	if c.CheckpointEvery == 0 {
		c.CheckpointEvery = defaultCheckpoint
	}
	return c
}

// check refuses what no log can run with.
func (c *Config) check() error {
	switch {
	case c.Files == nil || c.Clock == nil || c.Signer.SignDigest == nil:
		return errors.New("audit: config needs Files, Clock and Signer")
	case !tlog.ValidOrigin(c.Origin):
		return fmt.Errorf("audit: %q cannot be an origin", c.Origin)
	case c.SegmentBytes < MinSegment || c.SegmentBytes > MaxSegment || c.SegmentBytes%headerBytes != 0:
		return fmt.Errorf("audit: segments of %d bytes: want a multiple of %d from %d to %d", c.SegmentBytes, headerBytes, MinSegment, MaxSegment)
	case c.Reserve < 0 || c.CheckpointEvery < 0:
		return errors.New("audit: negative reserve or checkpoint interval")
	case c.Durability > Written:
		return errors.New("audit: unknown durability")
	}
	return nil
}

// State is what an operator wants to know about a log.
type State struct {
	Size       Position   // records accepted
	Durable    Position   // records durable
	Durability Durability // what durable means here
	Segments   int        // files that hold records
	FreeBytes  int64      // room in the current segment and in those made ahead
	Keyed      bool       // the batches written now carry a MAC
	Full       bool       // [Log.Err] reports ErrFull
	Dead       error      // why the log is dead, or nil
	SpaceErr   error      // why the last attempt to make a segment ahead did not succeed, or nil

	LastCheckpoint CheckpointState
	CheckpointErr  error // why the last attempt to make a checkpoint did not succeed, or nil

	Recovered Recovery
}

// CheckpointState tells of the newest checkpoint.
type CheckpointState struct {
	Size Position
	Time time.Time // when this process stored it; zero if an earlier one did
}

// Recovery is what [Open] found behind the newest checkpoint.
type Recovery struct {
	Records   uint64 // records behind the checkpoint
	Unchecked uint64 // of these, records whose MAC could not be checked: written while locked, or no key now
	Dropped   int64  // bytes, from the first to the last, of an unfinished write that was erased: nothing in it was ever acknowledged
}
