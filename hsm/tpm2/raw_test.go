package tpm2_test

import (
	"net"
	"testing"

	tpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
)

// raw runs f with a connection of its own to the TPM, which no Token has at the time: go-tpm's commands, as any program
// on the machine can send them.
func raw(t *testing.T, v *swtpm.TPM, f func(transport.TPM)) {
	t.Helper()
	c, err := net.Dial("unix", v.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f(transport.FromReadWriter(c))
}

// do executes a command that must succeed.
func do[R any](t *testing.T, r transport.TPM, execute func(transport.TPM, ...tpm.Session) (*R, error)) *R {
	t.Helper()
	reply, err := execute(r)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// handles returns the handles of a TPM from first on, of the same kind.
func handles(t *testing.T, r transport.TPM, first tpm.TPMHandle) []tpm.TPMHandle {
	t.Helper()
	reply := do(t, r, tpm.GetCapability{Capability: tpm.TPMCapHandles, Property: uint32(first), PropertyCount: 256}.Execute)
	list, err := reply.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return list.Handle
}
