package kms_test

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/service/kms"
)

// crowded returns one of few ids whose searches begin at the same few places of the same table.
func crowded(n int) (id api.KeyID) {
	id[1], id[2], id[15] = byte(n%3), 0xff, byte(n)
	return id
}

// TestPackedKeys: what is found is what was put last and not changed since, in a small and in a large
// room, and the large one finds all of it.
func TestPackedKeys(t *testing.T) {
	t.Parallel()
	for _, most := range []int{16, 16 * 128} {
		rapid.Check(t, func(rt *rapid.T) {
			p, model := kms.NewPacked(t, most), map[api.KeyID][]byte{}
			var changed keystore.Revision
			for range rapid.IntRange(1, 200).Draw(rt, "steps") {
				id := crowded(rapid.IntRange(0, 60).Draw(rt, "id"))
				switch rapid.SampledFrom([]string{"put", "put", "late", "drop"}).Draw(rt, "step") {
				case "put":
					model[id] = rapid.SliceOfN(rapid.Byte(), 1, kms.LongestPacked).Draw(rt, "plaintext")
					p.Put(id, changed, model[id])
				case "late": // read before a change that has been delivered
					if changed > 0 {
						p.Put(id, changed-1, []byte("old"))
					}
				case "drop":
					changed++
					p.Drop(id, changed)
					delete(model, id)
				}
				for n := range 61 {
					id := crowded(n)
					got, ok := p.Get(id)
					if want, there := model[id]; ok && !bytes.Equal(got, want) || ok && !there || there && !ok && most > 16 {
						rt.Fatalf("%s: got %x (%t), want %x (%t)", id, got, ok, want, there)
					}
				}
			}
			p.Close()
			if _, ok := p.Get(crowded(1)); ok {
				rt.Fatal("a closed room has a key")
			}
			p.Put(crowded(1), changed, []byte{1})
			if _, ok := p.Get(crowded(1)); ok {
				rt.Fatal("a closed room takes a key")
			}
		})
	}
}

// TestPackedBitsThatFlip: a bit of a slot that flips costs the key its place, and never changes it.
func TestPackedBitsThatFlip(t *testing.T) {
	t.Parallel()
	plaintext := bytes.Repeat([]byte{0xa5}, 80)
	for bit := range kms.PackedSlot * 8 {
		p := kms.NewPacked(t, 16)
		p.Put(crowded(1), 0, plaintext)
		p.Slot(t, crowded(1))[bit/8] ^= 1 << (bit % 8)
		if got, ok := p.Get(crowded(1)); ok && !bytes.Equal(got, plaintext) {
			t.Fatalf("bit %d: got %x", bit, got)
		} else if used := 16 + 8 + 1 + 80 + 16; ok && bit < used*8 {
			t.Errorf("bit %d flipped, and nobody noticed", bit)
		}
		p.Close()
	}
}

// TestPackedNonces: no two plaintexts are sealed under one nonce, whatever slot they come to.
func TestPackedNonces(t *testing.T) {
	t.Parallel()
	p, seen := kms.NewPacked(t, 16), map[uint64]bool{}
	for n := range 1000 {
		id := crowded(n % 5)
		p.Put(id, 0, []byte{byte(n)})
		nonce := binary.BigEndian.Uint64(p.Slot(t, id)[16:])
		if seen[nonce] {
			t.Fatalf("nonce %d serves twice", nonce)
		}
		seen[nonce] = true
	}
}

// TestPackedLeavesNothing: of a key that was dropped nothing stays, not sealed either.
func TestPackedLeavesNothing(t *testing.T) {
	t.Parallel()
	p := kms.NewPacked(t, 16)
	p.Put(crowded(1), 0, bytes.Repeat([]byte{0xa5}, 80))
	slot := p.Slot(t, crowded(1))
	p.Drop(crowded(1), 1)
	if left := bytes.Trim(slot, "\x00"); len(left) > 0 {
		t.Errorf("%d bytes stay: %x", len(left), left)
	}
}

// TestPackedByMany puts, gets and drops from several goroutines: whatever is got was put.
func TestPackedByMany(t *testing.T) {
	t.Parallel()
	p := kms.NewPacked(t, 64)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 2000 {
				id := crowded(n % 50)
				switch (n + g) % 3 {
				case 0:
					p.Put(id, 0, bytes.Repeat(id[15:], 50))
				case 1:
					if got, ok := p.Get(id); ok && !bytes.Equal(got, bytes.Repeat(id[15:], 50)) {
						t.Errorf("%s: got %x", id, got)
					}
				default:
					p.Drop(id, 0)
				}
			}
		})
	}
	wg.Wait()
}

// TestUnpackedIsTheKey: a key that was unpacked is the one in the store, in all that can be asked of
// it, and a change takes it out of the room.
func TestUnpackedIsTheKey(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.CachedKeys = 1 })
	d, s := newDesk(r), r.KMS()
	who := rootOf(racktest.Account)
	for _, in := range []*kmsapi.CreateKeyRequest{
		{Origin: kmsapi.OriginAWSKMS},
		{Origin: kmsapi.OriginAWSKMS, Description: "with words"},
		{Origin: kmsapi.OriginAWSKMS, KeySpec: kmsapi.KeySpecHMAC384, KeyUsage: kmsapi.UsageGenerateVerifyMac},
		{Origin: kmsapi.OriginAWSKMS, KeySpec: kmsapi.KeySpecECCNISTP256, KeyUsage: kmsapi.UsageSignVerify},
		{Origin: kmsapi.OriginAWSKMS, Tags: []kmsapi.Tag{{TagKey: "a", TagValue: "b"}}},
		{Origin: kmsapi.OriginAWSKMS, KeySpec: kmsapi.KeySpecRSA2048, KeyUsage: kmsapi.UsageSignVerify},
	} {
		made, err := ask(t, d, who, kmsapi.CreateKey, in)
		if err != nil {
			t.Fatal(err)
		}
		ref := api.ParseKeyRef([]byte(made.KeyMetadata.KeyId))
		small := len(in.Tags) == 0 && in.KeySpec != kmsapi.KeySpecRSA2048
		if got := kms.IsPacked(s, ref.ID); got != small {
			t.Errorf("%+v is packed: %t", in, got)
		}
		kms.ForgetSnapshots(s)
		described, err := ask(t, d, who, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref})
		if err != nil || !reflect.DeepEqual(described.KeyMetadata, made.KeyMetadata) {
			t.Errorf("got %+v, %v\nwant %+v", described, err, made.KeyMetadata)
		}
		if _, err := ask(t, d, who, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref}); err != nil {
			t.Fatal(err)
		}
		if kms.IsPacked(s, ref.ID) {
			t.Error("a changed key is still packed as it was")
		}
	}
}

// TestPackedFlipIsReadAnew: where a packed key has suffered, before or after it was sealed, the store's is
// used: what is encrypted from then on can be decrypted.
func TestPackedFlipIsReadAnew(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d, s := newDesk(r), r.KMS()
	who, ref := rootOf(racktest.Account), api.ParseKeyRef([]byte(r.CreateKey()))
	in := &kmsapi.EncryptRequest{KeyId: ref, Plaintext: api.Secret("a"), EncryptionAlgorithm: kmsapi.SymmetricDefault}
	sealed, err := ask(t, d, who, kmsapi.Encrypt, in)
	if err != nil {
		t.Fatal(err)
	}
	for what, flip := range map[string]func(testing.TB, *kms.Service, api.KeyID){"after": kms.FlipPackedBit, "before": kms.PackFlipped} {
		flip(t, s, ref.ID)
		kms.ForgetSnapshots(s)
		if _, err := ask(t, d, who, kmsapi.Encrypt, in); err != nil {
			t.Errorf("%s it was sealed: %v", what, err)
		}
		out, err := ask(t, d, who, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: sealed.CiphertextBlob, EncryptionAlgorithm: kmsapi.SymmetricDefault})
		if err != nil || string(out.Plaintext) != "a" {
			t.Errorf("%s it was sealed: got %v, %v", what, out, err)
		}
		if !kms.IsPacked(s, ref.ID) {
			t.Errorf("%s it was sealed: what the store has is not kept", what)
		}
	}
}

// TestPackedRowLosesNothing sets each member of a key's row to each of some values: the row is packed with it, or not at all.
func TestPackedRowLosesNothing(t *testing.T) {
	t.Parallel()
	elsewhere := map[string]bool{"Description": true, "Current": true, "Multi": true} // packed beside the row, and given by the id
	plain := kms.KeyRow{Format: 1, Account: "111122223333"}
	try := func(name string, row kms.KeyRow) (packed bool) {
		back, account, ok := kms.Repack(row)
		if ok && (!reflect.DeepEqual(back, row) || account.String() != row.Account) {
			t.Errorf("%s: got %+v, want %+v", name, back, row)
		}
		return ok
	}
	if !try("plain", plain) {
		t.Error("a plain row is not packed")
	}
	for _, account := range []string{"000000000000", "000000000001", "999999999999"} {
		plain.Account = account
		try("Account", plain)
	}
	for i := range reflect.TypeFor[kms.KeyRow]().NumField() {
		for n := range 16 {
			row := plain
			field := reflect.ValueOf(&row).Elem().Field(i)
			switch {
			case field.CanUint():
				field.SetUint(1 << n & (1<<field.Type().Bits() - 1))
			case field.CanInt():
				field.SetInt(1 << (4 * n))
			case field.Kind() == reflect.Pointer:
				field.Set(reflect.New(field.Type().Elem()))
			}
			name := reflect.TypeFor[kms.KeyRow]().Field(i).Name
			if name == "RotateNext" {
				row.RotateDays = uint16(row.RotateNext) | 1
			}
			if !elsewhere[name] {
				try(name, row)
			}
		}
	}
}

// BenchmarkEncryptPacked encrypts under keys that are packed: what a key costs that was not used lately.
func BenchmarkEncryptPacked(b *testing.B) {
	r := racktest.Start(b, func(cfg *rack.Config) { cfg.CachedKeys = 16 })
	d, who := newDesk(r), rootOf(racktest.Account)
	refs := make([]api.KeyRef, 256)
	for i := range refs {
		refs[i] = api.ParseKeyRef([]byte(r.CreateKey()))
	}
	s := d.Gate().Session(b.Context(), identity.Always(who), "test")
	defer s.Close()
	bodies := make([][]byte, len(refs))
	for i := range bodies {
		bodies[i] = kmsapi.Encrypt.In.AppendCBOR(nil, &kmsapi.EncryptRequest{KeyId: refs[i], Plaintext: make([]byte, 32), EncryptionAlgorithm: kmsapi.SymmetricDefault})
	}
	route := d.routes[kmsapi.Encrypt.Op]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if route.Serve(s.Call(1), protocol.Native{}, bodies[i%len(bodies)]) != work.None {
			b.Fatal("the key is not packed")
		}
		if i%64 == 63 {
			held := s.Flush(true)
			held.Release()
		}
	}
}
