package identity_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
)

var now = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func principal(n byte) *identity.Principal {
	return &identity.Principal{
		ARN: "arn:aws:iam::111122223333:root", Type: identity.Root, Account: api.AccountID([]byte("111122223333")), Credential: identity.KeyHash{n},
	}
}

// TestDirectory: a handle follows what is published, and hands out copies that
// nobody changes afterwards.
func TestDirectory(t *testing.T) {
	t.Parallel()
	var d identity.Directory
	h, stranger := d.Handle(identity.KeyHash{1}, time.Time{}), d.Handle(identity.KeyHash{7}, time.Time{})
	if h.Principal(now) != nil {
		t.Error("an empty directory knows somebody")
	}
	p := principal(1)
	d.Publish([]*identity.Principal{p, principal(2)})
	got := h.Principal(now)
	if got == nil || got.ARN != p.ARN || got.AccountText() != "111122223333" || h.Hash() != p.Credential {
		t.Fatalf("got %+v", got)
	}
	if p.Type = identity.Operator; h.Principal(now).Type != identity.Root {
		t.Error("a published principal can be changed")
	}
	if stranger.Principal(now) != nil || stranger.Hash() != (identity.KeyHash{7}) {
		t.Error("a stranger is somebody")
	}
	later := d.Handle(identity.KeyHash{1}, time.Time{})
	d.Publish([]*identity.Principal{principal(2)})
	if h.Principal(now) != nil || later.Principal(now) != nil {
		t.Error("a removed principal is still there")
	}
	d.Publish(nil)
	second := d.Handle(identity.KeyHash{2}, time.Time{})
	if second.Principal(now) != nil {
		t.Error("an emptied directory knows somebody")
	}
}

func TestCertificatesEnd(t *testing.T) {
	t.Parallel()
	var d identity.Directory
	d.Publish([]*identity.Principal{principal(1)})
	h := d.Handle(identity.KeyHash{1}, now)
	for after, there := range map[time.Duration]bool{-time.Hour: true, 0: true, time.Microsecond: false, time.Hour: false} {
		if got := h.Principal(now.Add(after)) != nil; got != there {
			t.Errorf("%v after its end: %t", after, got)
		}
	}
}

func TestAlways(t *testing.T) {
	t.Parallel()
	operator := &identity.Principal{ARN: "arn:aws:keyrack:rack-1::operator", Type: identity.Operator}
	h := identity.Always(operator)
	operator.Type = identity.Root
	if p := h.Principal(now); p == nil || p.Type != identity.Operator || p.AccountText() != "" || h.Hash() != (identity.KeyHash{}) {
		t.Errorf("got %+v", p)
	}
	var nobody identity.Handle
	if nobody.Principal(now) != nil {
		t.Error("the zero handle is somebody")
	}
}

// TestPublishUnderLoad: handles on many goroutines see one snapshot or the next.
func TestPublishUnderLoad(t *testing.T) {
	t.Parallel()
	var d identity.Directory
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for h := d.Handle(identity.KeyHash{1}, time.Time{}); ; {
				select {
				case <-done:
					return
				default:
				}
				if p := h.Principal(now); p != nil && p.Credential != (identity.KeyHash{1}) {
					t.Errorf("got %+v", p)
				}
			}
		})
	}
	for i := range 100 {
		d.Publish([]*identity.Principal{principal(byte(i % 2)), principal(2)})
	}
	close(done)
	wg.Wait()
}

func TestKeyHash(t *testing.T) {
	t.Parallel()
	h := identity.HashOf([]byte("a public key"))
	if got, err := identity.ParseKeyHash(h.String()); err != nil || got != h {
		t.Errorf("got %v, %v", got, err)
	}
	digits := strings.TrimPrefix(h.String(), "sha256:")
	for _, s := range []string{
		"", "sha256:", digits, "sha1:" + digits, "SHA256:" + digits, "sha256:" + strings.ToUpper(digits), "sha256:" + digits[1:],
		"sha256:" + digits + "00", " sha256:" + digits, "sha256:" + digits + "\n", "sha256:" + digits[:62] + "zz",
	} {
		if _, err := identity.ParseKeyHash(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}
