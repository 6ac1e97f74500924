package api_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
)

func TestKinds(t *testing.T) {
	t.Parallel()
	names := map[string]api.Kind{}
	for i, k := range api.Kinds() {
		if int(k) != i+1 || !k.Valid() {
			t.Errorf("kind %d stands at %d", k, i+1)
		}
		if other, taken := names[k.String()]; taken || k.String() == "" {
			t.Errorf("%d and %d are both called %q", k, other, k)
		}
		names[k.String()] = k
		if k.Retryable() && !k.Server() && k != api.KindThrottling {
			t.Errorf("%s is the caller's fault and may succeed later", k)
		}
	}
	beyond := api.Kind(len(api.Kinds()) + 1)
	if beyond.Valid() || beyond.Server() || beyond.Retryable() || beyond.String() != fmt.Sprintf("Kind(%d)", uint8(beyond)) || api.KindNone.Valid() {
		t.Errorf("a kind of a later version: %s", beyond)
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("load key: %w", &api.Error{Kind: api.KindNotFound, Message: "Key 'x' does not exist", Err: io.EOF})
	if !errors.Is(err, &api.Error{Kind: api.KindNotFound}) || errors.Is(err, &api.Error{Kind: api.KindInternal}) || !errors.Is(err, io.EOF) {
		t.Errorf("%v is not what it should be", err)
	}
	if errors.Is(err, &api.Error{Kind: api.KindNotFound, Message: "Key 'y' does not exist"}) {
		t.Error("errors with other messages are the same")
	}
	if got, want := api.AsError(err).Error(), "NotFoundException: Key 'x' does not exist"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := (&api.Error{Kind: api.KindThrottling}).Error(); got != "ThrottlingException" {
		t.Errorf("got %s", got)
	}
}

// TestInternalHidesItsCause checks that the caller never reads what broke.
func TestInternalHidesItsCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("open /secret/path: denied")
	e := api.AsError(cause)
	if e.Kind != api.KindInternal || strings.Contains(e.Error(), "secret") || !errors.Is(e, cause) {
		t.Errorf("got %v", e)
	}
	if api.KindOf(cause) != api.KindInternal || api.KindOf(nil) != api.KindNone || api.AsError(nil) != nil {
		t.Error("nil or a foreign error has the wrong kind")
	}
}
