package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// work is what a load sends: requests of one operation, over and over.
type work struct {
	op       *api.Op
	requests []any // read only
	connect  func() (*client.Client, error)
}

// prepare makes the keys and ciphertexts that the load needs.
func (b *benchmark) prepare() (*work, error) {
	if b.op == "status" {
		operator := func() (*client.Client, error) { return b.sh.local(*b.socket) }
		return &work{applianceapi.GetStatus.Op, []any{&applianceapi.GetStatusRequest{}}, operator}, nil
	}
	c, err := b.sh.remote()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	keys, err := b.findKeys(c, max(b.keys, min(b.salts, saltKeys)))
	if err != nil {
		return nil, err
	}
	plaintext := make(api.Secret, b.size)
	rand.Read(plaintext)
	if b.op == "encrypt" {
		requests := make([]any, len(keys))
		for i, key := range keys {
			requests[i] = encryptRequest(key, plaintext)
		}
		return &work{kmsapi.Encrypt.Op, requests, b.sh.remote}, nil
	}
	var requests []any
	for len(requests) < max(1, b.salts) {
		more, err := b.ciphertexts(c, keys[:min(len(keys), max(1, b.salts-len(requests)))], plaintext)
		if err != nil {
			return nil, fmt.Errorf("make the ciphertexts: %w", err)
		}
		if requests = append(requests, more...); b.salts > 0 {
			if err := b.age(len(more)); err != nil {
				return nil, err
			}
		}
	}
	if b.salts > 0 {
		if requests, err = b.fillRoom(c, requests); err != nil {
			return nil, fmt.Errorf("fill the room for message keys: %w", err)
		}
	}
	return &work{kmsapi.Decrypt.Op, requests, b.sh.remote}, nil
}

// encryptRequest returns a request that any number of calls may share.
func encryptRequest(key string, plaintext api.Secret) *kmsapi.EncryptRequest {
	return &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key)), Plaintext: plaintext, EncryptionAlgorithm: kmsapi.SymmetricDefault}
}

// findKeys returns the ids of n keys: new ones, or the first that the account has.
func (b *benchmark) findKeys(c *client.Client, n int) (ids []string, err error) {
	if !b.existing {
		if ids, err = b.createKeys(c, n); err != nil {
			err = fmt.Errorf("create the keys: %w", err)
		}
		return ids, err
	}
	request := &kmsapi.ListKeysRequest{Limit: 1000}
	for len(ids) < n {
		page, err := client.Do(b.ctx, c, kmsapi.ListKeys, request)
		if err != nil {
			return nil, fmt.Errorf("list the keys: %w", err)
		}
		for _, k := range page.Keys {
			ids = append(ids, k.KeyId)
		}
		if request.Marker = page.NextMarker; !page.Truncated {
			break
		}
	}
	if len(ids) < n {
		return nil, fmt.Errorf("the account has %d keys, and --keys asks for %d", len(ids), n)
	}
	return ids[:n], nil
}

// createKeys returns the ids of n new keys.
func (b *benchmark) createKeys(c *client.Client, n int) ([]string, error) {
	request := &kmsapi.CreateKeyRequest{Description: "keyrack bench", Origin: kmsapi.OriginAWSKMS}
	ids := make([]string, n)
	return ids, b.pipelined(c, "keys created", kmsapi.CreateKey.Op, n, func(int) any { return request }, func(i int, r client.Reply) error {
		var out kmsapi.CreateKeyResponse
		err := r.Decode(kmsapi.CreateKey.Op, &out)
		ids[i] = out.KeyMetadata.KeyId
		return err
	})
}

// ciphertexts returns a request to decrypt for each key.
func (b *benchmark) ciphertexts(c *client.Client, keys []string, plaintext api.Secret) ([]any, error) {
	requests := make([]any, len(keys))
	in := func(i int) any { return encryptRequest(keys[i], plaintext) }
	return requests, b.pipelined(c, "ciphertexts made", kmsapi.Encrypt.Op, len(keys), in, func(i int, r client.Reply) error {
		var out kmsapi.EncryptResponse
		err := r.Decode(kmsapi.Encrypt.Op, &out)
		blob := append(api.Blob(nil), out.CiphertextBlob...) // it aliases the connection's memory
		requests[i] = &kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionAlgorithm: kmsapi.SymmetricDefault}
		return err
	})
}

// age waits until the appliance no longer has the message keys that it
// encrypted under.
func (b *benchmark) age(n int) error {
	fmt.Fprintf(b.sh.err, "keyrack bench: waiting %v for the appliance to forget %d message keys\n", b.forget, n)
	select {
	case <-time.After(b.forget):
		return nil
	case <-b.ctx.Done():
		return errInterrupted
	}
}

// fillRoom fills the room for message keys that the appliance derives, and
// returns the requests to measure: those that found no room, or all, if all
// found some.
func (b *benchmark) fillRoom(c *client.Client, requests []any) ([]any, error) {
	kept := min(len(requests), api.OpenKeysPerAccount)
	err := b.pipelined(c, "message keys derived", kmsapi.Decrypt.Op, kept, func(i int) any { return requests[i] }, func(_ int, r client.Reply) error { return r.Err() })
	if kept == len(requests) {
		return requests, err
	}
	return requests[kept:], err
}

// pipelined makes n calls with many in flight, and returns when all were
// answered, or none more is made because of an error or Ctrl-C. got runs on goroutines of
// the connection, one call after the other.
func (b *benchmark) pipelined(c *client.Client, what string, op *api.Op, n int, in func(int) any, got func(int, client.Reply) error) error {
	var mu sync.Mutex
	var failed error
	fail := func(err error) bool {
		mu.Lock()
		defer mu.Unlock()
		if failed == nil {
			failed = err
		}
		return failed != nil
	}
	m := b.sh.meter(what)
	defer m.clear()
	slots := make(chan struct{}, 256) // well below the appliance's window and queues
	for i := range n {
		slots <- struct{}{}
		m.show(int64(i), int64(n))
		if fail(unlessInterrupted(b.ctx)) {
			<-slots
			break
		}
		err := c.Start(context.Background(), op, in(i), func(r client.Reply) {
			fail(got(i, r))
			<-slots
		})
		if err != nil {
			fail(err)
			<-slots
			break
		}
	}
	for range cap(slots) { // all of them free: all answered
		slots <- struct{}{}
	}
	return failed
}
