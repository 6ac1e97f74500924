package main

import (
	"crypto/sha3"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/protocol/client"
)

// readForMLDSA reads a file of at most 4096 bytes, which is sent itself, or the mu of a
// longer one: a signature of the one is a signature of the other.
func (m *signable) readForMLDSA(sh *shell, c *client.Client, from string) error {
	w := &muWriter{start: func() (*sha3.SHAKE, error) { return muHash(c, m.key) }}
	if err := sh.copyInput(w, from); err != nil {
		return fmt.Errorf("read the message: %w", err)
	}
	if w.mu == nil {
		m.is, m.message = kmsapi.MessageRaw, w.head
		return signableItself(m.a, m.message)
	}
	m.is, m.message = kmsapi.MessageExternalMu, make([]byte, pq.MuSize)
	_, err := w.mu.Read(m.message)
	return err
}

// muWriter keeps what is written to it, or hashes it once it is more than a message that
// can be sent.
type muWriter struct {
	start func() (*sha3.SHAKE, error)
	head  []byte
	mu    *sha3.SHAKE // nil while head is all
}

// Write is part of io.Writer.
func (w *muWriter) Write(b []byte) (int, error) {
	if w.mu == nil && len(w.head)+len(b) <= api.MaxMessage {
		w.head = append(w.head, b...)
		return len(b), nil
	}
	if w.mu == nil {
		mu, err := w.start()
		if err != nil {
			return 0, err
		}
		mu.Write(w.head)
		w.mu = mu
	}
	return w.mu.Write(b)
}

// muHash returns the hash of a mu under the public key of a key, ready for the message,
// with an empty context (FIPS 204, algorithm 2, line 10, and algorithm 7, line 6).
func muHash(c *client.Client, key api.KeyRef) (*sha3.SHAKE, error) {
	out, err := call(c, kmsapi.GetPublicKey, &kmsapi.GetPublicKeyRequest{KeyId: key})
	if err != nil {
		return nil, err
	}
	set, public, err := pq.ParsePKIX(out.PublicKey)
	if err != nil || set > pq.MLDSA87 {
		return nil, hinted("leave --algorithm out to use the first one of the key", "%s is no key of ML-DSA", out.KeyId)
	}
	h := sha3.NewSHAKE256()
	h.Write(sha3.SumSHAKE256(public, 64))
	h.Write([]byte{0, 0}) // the message itself, no context
	return h, nil
}
