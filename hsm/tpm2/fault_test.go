package tpm2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tpm "github.com/google/go-tpm/tpm2"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

// faults are what a TPM can do to a command, and the errors that may come of it. The reply of a TPM whose
// connection broke may have been asked for again.
var faults = []struct {
	name string
	hook func(command []byte, tpm func([]byte) []byte) []byte
	want []error
}{
	{"code", func([]byte, func([]byte) []byte) []byte { return code(tpm.TPMRCCommandCode) }, []error{tpm.TPMRCCommandCode}},
	{"forgotten", func([]byte, func([]byte) []byte) []byte { return code(tpm.TPMRCReferenceS0) }, []error{tpm.TPMRCReferenceS0, nil}},
	{"garbage", func([]byte, func([]byte) []byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }, []error{tpm2.ErrGarbage}},
	{"empty", func([]byte, func([]byte) []byte) []byte { return []byte{0x80, 2, 0, 0, 0, 10, 0, 0, 0, 0} }, []error{tpm2.ErrGarbage, nil}},
	{"cut", cut, []error{tpm2.ErrGarbage, tpm2.ErrSilent}},
	{"flipped", flipped, []error{tpm2.ErrGarbage, hsm.ErrBlob, tpm.TPMRCBadAuth, nil}}, // the TPM refuses a session whose nonce we have wrong
	{"lost", lost, []error{tpm2.ErrUnreachable, nil}},
	{"broken", func([]byte, func([]byte) []byte) []byte { return []byte{} }, []error{tpm2.ErrUnreachable, nil}},
	{"silence", func([]byte, func([]byte) []byte) []byte { return nil }, []error{tpm2.ErrSilent}},
}

// code is a reply that has nothing but a response code.
func code(rc tpm.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 0, 0, 10}, uint32(rc))
}

// cut ends in the middle of the TPM's reply, and then nothing comes any more.
func cut(command []byte, tpm func([]byte) []byte) []byte {
	reply := tpm(command)
	return reply[:len(reply)/2]
}

// flipped changes the last bit of the TPM's reply, which is in an HMAC where there is one.
func flipped(command []byte, tpm func([]byte) []byte) []byte {
	reply := tpm(command)
	if len(reply) > 10 {
		reply[len(reply)-1] ^= 1
	}
	return reply
}

// lost has the TPM do its work and the connection break before it can say so.
func lost(command []byte, tpm func([]byte) []byte) []byte {
	tpm(command)
	return []byte{}
}

// scene is a TPM with keys in it, seen through a bus.
type scene struct {
	tpm                  *swtpm.TPM
	bus                  *swtpm.Bus
	token                *tpm2.Token
	root, signer         hsm.Key
	rootBlob, signerBlob []byte
	want                 []byte // what root makes of "input"
	left                 int    // counters that may be left behind
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{tpm: swtpm.Start(t)}
	s.bus = s.tpm.Bus("unix")
	s.token = open(t, tpm2.Config{Path: s.bus.Path()})
	s.root, s.rootBlob = generate(t, s.token, hsm.PRFSHA256)
	s.signer, s.signerBlob = generate(t, s.token, hsm.SignP256)
	s.want = prf(t, s.root, "input")
	return s
}

func open(t *testing.T, cfg tpm2.Config) *tpm2.Token {
	t.Helper()
	p, err := tpm2.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func generate(t *testing.T, p hsm.Provider, spec hsm.Spec) (hsm.Key, []byte) {
	t.Helper()
	k, blob, err := p.Generate(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return k, blob
}

func prf(t *testing.T, k hsm.Key, input string) []byte {
	t.Helper()
	out, err := k.(hsm.PRF).PRF(t.Context(), nil, []byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// operations are what a fault may hit. Each leaves the scene as it was when it succeeds.
func (s *scene) operations() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Open": func(ctx context.Context) error {
			_ = s.token.Close()
			p, err := tpm2.Open(ctx, tpm2.Config{Path: s.bus.Path(), Timeout: timeoutOf(ctx)})
			if err != nil {
				return err
			}
			s.token = p
			s.bus.Set(nil)
			if s.root, err = p.Load(ctx, s.rootBlob); err != nil {
				return err
			}
			s.signer, err = p.Load(ctx, s.signerBlob)
			return err
		},
		"Generate": func(ctx context.Context) error {
			_, blob, err := s.token.Generate(ctx, hsm.PRFSHA256)
			if err != nil {
				return err
			}
			s.bus.Set(nil)
			return s.token.Destroy(ctx, blob)
		},
		"Load": func(ctx context.Context) error {
			k, err := s.token.Load(ctx, s.rootBlob)
			if err == nil {
				s.root = k
			}
			return err
		},
		"PRF": func(ctx context.Context) error {
			got, err := s.root.(hsm.PRF).PRF(ctx, nil, []byte("input"))
			if err == nil && !bytes.Equal(got, s.want) {
				return fmt.Errorf("PRF gave %x, want %x", got, s.want)
			}
			return err
		},
		"Sign": func(ctx context.Context) error {
			_, err := s.signer.(hsm.Signer).SignDigest(ctx, make([]byte, 32))
			return err
		},
		"Random": func(ctx context.Context) error { return s.token.Random(ctx, make([]byte, 40)) },
	}
}

type timeoutKey struct{}

// timeoutOf returns what one command may take in an operation of this context.
func timeoutOf(ctx context.Context) time.Duration {
	d, _ := ctx.Value(timeoutKey{}).(time.Duration)
	return d
}

const (
	short = 100 * time.Millisecond // enough to see that nothing comes
	long  = time.Minute            // enough for any machine
)

// patienceFor returns how long to wait where nothing, or not all, will come.
func patienceFor(fault string) time.Duration {
	if fault == "silence" || fault == "cut" {
		return short
	}
	return long
}

// slower returns more patience, but not all: each command that is not answered costs it once.
func slower(patience time.Duration) time.Duration { return min(4*patience, long) }

// TestFaults: whatever goes wrong with whichever command of an operation, there is one clear error, or the operation was done
// again; nothing is lost, no counter is left behind, and the next try works.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name := range (&scene{}).operations() {
		for _, fault := range faults {
			t.Run(name+"/"+fault.name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				patience := patienceFor(fault.name)
				for n := 1; ; n++ {
					s.token.SetTimeout(long)
					_ = s.token.Random(t.Context(), make([]byte, 1)) // a connection, and nothing loaded that the operation needs
					fired, harmless := false, false
					s.bus.Set(func(i int, command []byte, execute func([]byte) []byte) []byte {
						if i == n {
							fired, harmless = true, commandOf(command) == tpm.TPMCCFlushContext // what stays in the TPM, the next connection clears
							return fault.hook(command, execute)
						}
						return execute(command)
					})
					s.token.SetTimeout(patience)
					err := s.operations()[name](context.WithValue(t.Context(), timeoutKey{}, patience))
					s.bus.Set(nil)
					s.token.SetTimeout(long)
					if !fired && patience != long && errors.Is(err, tpm2.ErrSilent) {
						patience, n = slower(patience), n-1 // the machine is slow: once more
						continue
					}
					if !fired {
						if err != nil {
							t.Fatalf("without a fault: %v", err)
						}
						s.reopened(t)
						return
					}
					if !expected(err, fault.want) && !(harmless && err == nil) {
						t.Errorf("command %d: %v", n, err)
					}
					if name == "Open" && err != nil { // the token of before is closed
						s.reopened(t)
					}
					s.intact(t, fmt.Sprintf("command %d", n), err)
				}
			})
		}
	}
}

// TestCodes: what a chip says has a name where there is a way out.
func TestCodes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for rc, want := range map[tpm.TPMRC]error{
		tpm.TPMRCFailure:        tpm2.ErrFailed,
		tpm.TPMRCObjectMemory:   tpm2.ErrBusy,
		tpm.TPMRCSessionMemory:  tpm2.ErrBusy,
		tpm.TPMRCSessionHandles: tpm2.ErrBusy,
		tpm.TPMRCLockout:        tpm2.ErrLockout,
	} {
		s.bus.Set(func(int, []byte, func([]byte) []byte) []byte { return code(rc) })
		for _, name := range []string{"Load", "PRF", "Generate", "Random"} {
			if err := s.operations()[name](t.Context()); !errors.Is(err, want) || !errors.Is(err, rc) {
				t.Errorf("%s with %v: %v", name, rc, err)
			}
		}
	}
	s.bus.Set(nil)
	s.intact(t, "codes", nil)
}

// TestNotAReply: headers that no TPM sends.
func TestNotAReply(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, reply := range map[string][]byte{
		"tag":               {0x12, 0x34, 0, 0, 0, 10, 0, 0, 0, 0},
		"tag of a failure":  {0x80, 2, 0, 0, 0, 10, 0, 0, 1, 1},
		"code":              {0x80, 1, 0, 0, 0, 10, 1, 2, 3, 4},
		"body of a failure": {0x80, 1, 0, 0, 0, 12, 0, 0, 1, 1, 0, 0},
		"size below 10":     {0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0},
		"size above 4096":   {0x80, 1, 0, 0, 0x10, 1, 0, 0, 0, 0},
		"size above 2 GiB":  {0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
	} {
		s.bus.Set(func(int, []byte, func([]byte) []byte) []byte { return reply })
		if err := s.operations()["Load"](t.Context()); !errors.Is(err, tpm2.ErrGarbage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.bus.Set(nil)
	s.intact(t, "bad replies", nil)
}

// TestDestroyUnderFaults: a Destroy that goes wrong does not say that the key is gone, and the next one ends it.
func TestDestroyUnderFaults(t *testing.T) {
	t.Parallel()
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			patience := patienceFor(fault.name)
			for n, fired := 1, true; fired; n++ {
				_, blob := generate(t, s.token, hsm.PRFSHA256)
				fired = false
				s.bus.Set(func(i int, command []byte, execute func([]byte) []byte) []byte {
					if i == n {
						fired = true
						return fault.hook(command, execute)
					}
					return execute(command)
				})
				s.token.SetTimeout(patience)
				err := s.token.Destroy(t.Context(), blob)
				s.bus.Set(nil)
				s.token.SetTimeout(long)
				if !fired && patience != long && errors.Is(err, tpm2.ErrSilent) {
					patience, n, fired = slower(patience), n-1, true // the machine is slow: once more
					s.ended(t, blob, false)                          // the next time makes another key
					continue
				}
				if errors.Is(err, hsm.ErrBlob) || !fired && err != nil {
					t.Errorf("command %d: %v", n, err)
				}
				s.ended(t, blob, err == nil)
				s.intact(t, fmt.Sprintf("command %d", n), err)
			}
		})
	}
}

// ended settles a Destroy that may have been cut off, and checks that the key is gone.
func (s *scene) ended(t *testing.T, blob []byte, already bool) {
	t.Helper()
	if err := s.token.Destroy(t.Context(), blob); already && !errors.Is(err, hsm.ErrBlob) || err != nil && !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("the next Destroy: %v", err)
	}
	if _, err := s.token.Load(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("Load of a destroyed key: %v", err)
	}
}

// TestPowerCuts: the TPM loses its power before or after it did any command of Generate and Destroy, and comes back at once, or after the
// operation has given up. No key is lost, none that was destroyed comes back, and at most one counter is left behind by each Generate.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("power comes late %t/reply lost %t", late, after), func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				cut := func(n int, f func()) (fired bool) {
					s.bus.Set(func(i int, command []byte, execute func([]byte) []byte) []byte {
						if i != n {
							if reply := execute(command); reply != nil {
								return reply
							}
							return []byte{}
						}
						fired = true
						if after {
							execute(command)
						}
						s.tpm.Kill()
						if !late {
							s.tpm.Restart()
						}
						return []byte{}
					})
					if late {
						s.token.SetTimeout(short)
					}
					f()
					s.tpm.Restart()
					s.bus.Set(nil)
					s.token.SetTimeout(long)
					return fired
				}
				for n, fired := 1, true; fired; n++ {
					left := len(indexes(t, s))
					var blob []byte
					fired = cut(n, func() { _, blob, _ = s.token.Generate(t.Context(), hsm.PRFSHA256) })
					if got := len(indexes(t, s)); blob == nil && got > left+1 || blob == nil && got > left && !late {
						t.Errorf("cut at command %d of Generate: %d counters, were %d", n, got, left)
					}
					if blob == nil {
						_, blob = generate(t, s.token, hsm.PRFSHA256)
					}
					if _, err := s.token.Load(t.Context(), blob); err != nil {
						t.Errorf("cut at command %d of Generate: its key: %v", n, err)
					}
					s.ended(t, blob, false)
				}
				for n, fired := 1, true; fired; n++ {
					_, blob := generate(t, s.token, hsm.PRFSHA256)
					left := len(indexes(t, s))
					var err error
					fired = cut(n, func() { err = s.token.Destroy(t.Context(), blob) })
					if errors.Is(err, hsm.ErrBlob) {
						t.Errorf("cut at command %d of Destroy: %v", n, err)
					}
					s.ended(t, blob, err == nil)
					if got := len(indexes(t, s)); got != left-1 {
						t.Errorf("cut at command %d of Destroy: %d counters, were %d", n, got, left)
					}
				}
				if got := prf(t, s.root, "input"); !bytes.Equal(got, s.want) {
					t.Errorf("PRF gives %x, was %x", got, s.want)
				}
			})
		}
	}
}

// indexes returns our counters in the scene's TPM, which its token has open.
func indexes(t *testing.T, s *scene) []tpm.TPMHandle {
	t.Helper()
	list, err := s.token.Indexes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// commandOf returns a command's code.
func commandOf(command []byte) tpm.TPMCC { return tpm.TPMCC(binary.BigEndian.Uint32(command[6:])) }

func expected(err error, want []error) bool {
	for _, w := range want {
		if errors.Is(err, w) {
			return true
		}
	}
	return false
}

// intact checks that the keys work and that the TPM has as many counters as there are keys, and those that an error said may be left.
func (s *scene) intact(t *testing.T, after string, err error) {
	t.Helper()
	if err != nil && strings.Contains(err.Error(), "may be left in the TPM") {
		s.left++ // the undoing ran into the short time limit
	}
	if err := s.operations()["PRF"](t.Context()); err != nil {
		t.Fatalf("after %s: PRF: %v", after, err)
	}
	if got := indexes(t, s); len(got) < 2 || len(got) > 2+s.left {
		t.Fatalf("after %s the TPM has counters %x", after, got)
	}
}

// reopened checks that another process finds everything.
func (s *scene) reopened(t *testing.T) {
	t.Helper()
	if err := s.operations()["Open"](context.WithValue(t.Context(), timeoutKey{}, long)); err != nil {
		t.Fatal(err)
	}
	if err := s.operations()["Sign"](t.Context()); err != nil {
		t.Fatal(err)
	}
	s.intact(t, "opening it again", nil)
}
