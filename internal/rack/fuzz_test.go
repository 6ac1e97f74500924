package rack_test

import (
	"fmt"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/rack"
)

// FuzzDevMark: a mark that names an appliance is the one that Dev writes for it.
func FuzzDevMark(f *testing.F) {
	const mark = "keyrack dev made this folder for appliance %s, and keyrack dev reset removes it\n"
	f.Add(fmt.Appendf(nil, mark, api.KeyID{1: 2}))
	f.Add(fmt.Appendf(nil, mark, "0002000000000000000000000000000-0"))
	f.Add(fmt.Appendf(nil, mark, "00020000-0000-0000-0000-00000000000A"))
	f.Add([]byte("keyrack dev made this folder, and keyrack dev reset removes it\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id := rack.ParseMark(b); id != (api.KeyID{}) && string(b) != fmt.Sprintf(mark, id) {
			t.Errorf("%q is the mark of %s", b, id)
		}
	})
}
