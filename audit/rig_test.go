package audit_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/tlog"
)

const origin = "rack.example/audit/1"

// signingKey is one for all tests: it is the tests' token.
var signingKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
})

func signer(k *ecdsa.PrivateKey) audit.Signer {
	return audit.Signer{Public: &k.PublicKey, SignDigest: func(_ context.Context, digest []byte) ([]byte, error) {
		return ecdsa.SignASN1(rand.Reader, k, digest)
	}}
}

func verifier(t testing.TB, name string, k *ecdsa.PrivateKey) tlog.Verifier {
	t.Helper()
	v, err := tlog.NewP256Verifier(name, &k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// startKey is the tests' PRF under a nonce.
func startKey(nonce [32]byte) (*securemem.Buffer, error) {
	k := sha256.Sum256(append([]byte("start key"), nonce[:]...))
	return securemem.From(k[:])
}

// tiny is a log of segments that hold about a dozen records, without goroutines.
func tiny(files audit.Files) audit.Config {
	c := small(files)
	audit.Inline(&c)
	return c
}

// small is the same with its goroutines.
func small(files audit.Files) audit.Config {
	return audit.Config{
		Files: files, Origin: origin, Signer: signer(signingKey()), StartKey: startKey, Clock: clock.System(),
		SegmentBytes: 16 << 10, CheckpointEvery: time.Millisecond,
	}
}

func open(t testing.TB, c audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// record is the tests' record number n; its length varies with n.
func record(n int) *audit.Record {
	return &audit.Record{
		Event: [16]byte{1, byte(n >> 8), byte(n)}, Time: 1_700_000_000_000_000 + int64(n), Op: 7, Principal: "arn:aws:iam::000000000000:user/alice",
		Account: "000000000000", RequestID: uint64(n), Reason: string(bytes.Repeat([]byte{'r'}, n*37%500)), Request: []byte{0xa1, 0x01, 0x61, 'k'},
	}
}

func encoded(n int) []byte { return audit.AppendRecord(nil, record(n)) }

// add appends records from to to-1 as one trail.
func add(l *audit.Log, from, to int) (audit.Position, error) {
	var t audit.Trail
	for n := from; n < to; n++ {
		t.Add(record(n))
	}
	return l.Append(&t, false)
}

func mustAdd(t testing.TB, l *audit.Log, from, to int) {
	t.Helper()
	p, err := add(l, from, to)
	if err == nil {
		err = l.Wait(context.Background(), p)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var errEnough = errors.New("enough")

// read returns all durable records.
func read(l *audit.Log) (records [][]byte, err error) {
	if l.Durable() == 0 {
		return nil, nil
	}
	err = l.Follow(context.Background(), 0, func(p audit.Position, r []byte) error {
		records = append(records, bytes.Clone(r))
		if int(p) != len(records) {
			return fmt.Errorf("record %d has position %d", len(records), p)
		}
		if p >= l.Durable() {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return records, err
}

// wantRecords checks that the log holds the tests' records from 0 on, in order, at least least
// of them.
func wantRecords(l *audit.Log, least int) error {
	records, err := read(l)
	if err != nil {
		return err
	}
	if len(records) < least {
		return fmt.Errorf("%d records are left of %d that were acknowledged", len(records), least)
	}
	for i, r := range records {
		if !bytes.Equal(r, encoded(i)) {
			return fmt.Errorf("record %d is not what was appended", i)
		}
	}
	return nil
}

func verify(t testing.TB, files audit.Files, expect ...[]byte) (audit.Report, error) {
	t.Helper()
	return audit.Verify(files, audit.VerifyOptions{Keys: []tlog.Verifier{verifier(t, origin, signingKey())}, Expect: expect, StartKey: startKey})
}

func mustVerify(t testing.TB, files audit.Files, expect ...[]byte) audit.Report {
	t.Helper()
	r, err := verify(t, files, expect...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
