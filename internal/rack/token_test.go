package rack_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/rack"
)

// TestARefusedTokenIsNotRepeated: whoever mistypes a specification may have written a PIN into it.
func TestARefusedTokenIsNotRepeated(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		"pkcs1:module=/x;pin-value=98765", "pkcs11;pin=98765", "tpm:pin=98765", "tpm2;98765:", "tpm2:pin=98765", "tpm2:98765", "tpm2:owner=98765",
		"pkcs11:module=/x;token=a;pin-value=98765", "pkcs11:module=/x;token=a;98765", "pkcs11:module=/x;token=a;pin-source=98765",
		"tpm2:pin-ask=yes;pin=98765", "pkcs11:pin-ask=yes;pin=98765", "none:pin-ask=yes;pin=98765",
	} {
		_, _, err := rack.ParseToken(spec, "/x")
		if !errors.Is(err, rack.ErrToken) || strings.Contains(err.Error(), "98765") {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

// TestALabelStaysInItsQuotes: what keyrack token list prints is pasted into a shell, in single quotes.
func TestALabelStaysInItsQuotes(t *testing.T) {
	t.Parallel()
	const label = "a';id;'%27 100%"
	text := rack.Escape(label)
	if back, err := url.PathUnescape(text); err != nil || back != label || strings.ContainsAny(text, "';") {
		t.Errorf("%s means %q, %v", text, back, err)
	}
}
