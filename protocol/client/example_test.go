package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/protocol/client"
)

// development starts an appliance for the examples and puts what keyrack dev prints into the
// environment. end stops it.
func development() (end func()) {
	dir, err := os.MkdirTemp("", "keyrack")
	if err != nil {
		log.Fatal(err)
	}
	a, env, err := rack.Dev(context.Background(), rack.Config{Dir: dir, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	for _, line := range env {
		name, value, _ := strings.Cut(line, "=")
		os.Setenv(name, value)
	}
	return func() {
		a.Close(context.Background())
		os.RemoveAll(dir)
		for _, line := range env {
			name, _, _ := strings.Cut(line, "=")
			os.Unsetenv(name)
		}
	}
}

// connect returns a client as the environment describes it.
func connect() *client.Client {
	cfg, err := client.FromEnv(os.Getenv)
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// Connect as the environment says: keyrack dev and keyrack principal add print what
// to export.
func ExampleFromEnv() {
	defer development()()

	cfg, err := client.FromEnv(os.Getenv)
	if err != nil {
		log.Fatal(err)
	}
	cfg.Conns = 2 // connections to share
	c, err := client.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := client.Do(ctx, c, kmsapi.ListKeys, &kmsapi.ListKeysRequest{})
	if err != nil {
		log.Fatal(err)
	}
	note, err := c.Checkpoint()
	fmt.Println(len(out.Keys), "keys; a checkpoint of the audit log is kept:", note != "", err)
	// Output: 0 keys; a checkpoint of the audit log is kept: true <nil>
}

// Encrypt and decrypt under a key that never leaves the appliance. What was
// encrypted in one context can be decrypted only in the same.
func ExampleDo() {
	defer development()()
	c, ctx := connect(), context.Background()
	defer c.Close()

	key, err := client.Do(ctx, c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Description: "for the wiki"})
	if err != nil {
		log.Fatal(err)
	}
	wiki := api.NewEncryptionContext(map[string]string{"app": "wiki"})
	sealed, err := client.Do(ctx, c, kmsapi.Encrypt, &kmsapi.EncryptRequest{
		KeyId:             api.ParseKeyRef([]byte(key.KeyMetadata.Arn)),
		Plaintext:         api.Secret("the password of the database"),
		EncryptionContext: wiki,
	})
	if err != nil {
		log.Fatal(err)
	}
	opened, err := client.Do(ctx, c, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: wiki})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", []byte(opened.Plaintext))
	// Output: the password of the database
}

// Keep many requests in flight from one goroutine. Each answer makes room for
// another request.
func ExampleClient_Start() {
	defer development()()
	c, ctx := connect(), context.Background()
	defer c.Close()

	key, err := client.Do(ctx, c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	if err != nil {
		log.Fatal(err)
	}
	in := &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key.KeyMetadata.KeyId)), Plaintext: api.Secret("rose")}
	const requests, underWay = 1000, 64
	answers, good := make(chan error, underWay), 0
	for sent, answered := 0, 0; answered < requests; {
		if sent < requests && sent-answered < underWay {
			err := c.Start(ctx, kmsapi.Encrypt.Op, in, func(r client.Reply) {
				var out kmsapi.EncryptResponse // aliases the reply: keep nothing of it uncopied
				answers <- r.Decode(kmsapi.Encrypt.Op, &out)
			})
			if err != nil { // of the request; ErrBusy where more are under way than the appliance takes
				log.Fatal(err)
			}
			sent++
			continue
		}
		if <-answers == nil {
			good++
		}
		answered++
	}
	fmt.Println(good, "answers")
	// Output: 1000 answers
}

// Errors are told apart by their kind, which has AWS's name, and by what became of
// the call.
func ExampleClient_Call() {
	defer development()()
	c, ctx := connect(), context.Background()
	defer c.Close()

	var out kmsapi.DescribeKeyResponse
	err := c.Call(ctx, kmsapi.DescribeKey.Op, &kmsapi.DescribeKeyRequest{KeyId: api.ParseKeyRef([]byte("alias/nobody"))}, &out)
	var suspect *client.LogError
	switch {
	case err == nil:
		fmt.Println(out.KeyMetadata.Arn)
	case errors.As(err, &suspect):
		fmt.Println("the audit log was rewritten: trust nothing, keep the evidence:", suspect.Kept, suspect.Got)
	case errors.Is(err, client.ErrLost):
		fmt.Println("the connection was lost: the call may have been carried out")
	case api.KindOf(err) == api.KindNotFound:
		fmt.Println("there is no such key:", api.KindOf(err))
	case api.KindOf(err) == api.KindThrottling:
		fmt.Println("too much at once, although it was tried again")
	default:
		fmt.Println(err)
	}
	// Output: there is no such key: NotFoundException
}
