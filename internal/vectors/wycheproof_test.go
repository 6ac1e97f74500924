package vectors_test

import (
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/vectors"
)

// TestWycheproofIsThere: make setup runs it alone, to fetch the module.
func TestWycheproofIsThere(t *testing.T) {
	t.Parallel()
	if dir, err := vectors.Fetched(); err != nil || !strings.HasSuffix(dir, vectors.Version) {
		t.Errorf("got %s, %v", dir, err)
	}
}

// TestWhatIsNotFetched: what is not what was pinned is not read, and what cannot be had says what to do.
func TestWhatIsNotFetched(t *testing.T) {
	t.Parallel()
	if _, err := vectors.Fetch(vectors.Module, vectors.Version, vectors.Sum+"A="); err == nil || !strings.Contains(err.Error(), "not what was pinned") {
		t.Errorf("got %v", err)
	}
	if _, err := vectors.Fetch("nowhere", "v1.0.0", vectors.Sum); err == nil || !strings.Contains(err.Error(), "make setup needs") {
		t.Errorf("got %v", err)
	}
}
