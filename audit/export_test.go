package audit

import "context"

// Inline makes a log without goroutines: every Append commits and prepares segments by itself, so that a run is the same each time.
func Inline(c *Config) { c.inline = true }

// SkipSync switches off the syncs of what the log writes: a failpoint that a crash test must notice.
func SkipSync(c *Config) { c.skipSync = true }

// SignCheckpoint signs a checkpoint of an Inline log now.
func (l *Log) SignCheckpoint() error { return l.checkpoint(context.Background()) }

// SegmentFile returns the name of a segment's file.
func SegmentFile(number uint64) string { return segmentName(number) }

// The layout, for tests that change bytes.
const (
	HeaderBytes = headerBytes
	BatchBytes  = batchBytes
	FrameBytes  = frameBytes
	Sector      = sector
	MaxPending  = maxPending
)
