package pq_test

import (
	"bytes"
	"encoding/asn1"
	"strings"
	"testing"

	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem512"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"

	"github.com/keyrack/keyrack/internal/pq"
)

// oids are those of RFC 9881, section 2, and RFC 9935, section 3.
var oids = map[pq.Set]asn1.ObjectIdentifier{
	pq.MLDSA44: {2, 16, 840, 1, 101, 3, 4, 3, 17}, pq.MLDSA65: {2, 16, 840, 1, 101, 3, 4, 3, 18}, pq.MLDSA87: {2, 16, 840, 1, 101, 3, 4, 3, 19},
	pq.MLKEM512: {2, 16, 840, 1, 101, 3, 4, 4, 1}, pq.MLKEM768: {2, 16, 840, 1, 101, 3, 4, 4, 2}, pq.MLKEM1024: {2, 16, 840, 1, 101, 3, 4, 4, 3},
}

type algorithm struct{ OID asn1.ObjectIdentifier }

// spki and pkcs8 are what encoding/asn1 makes and reads.
type spki struct {
	Algorithm algorithm
	Key       asn1.BitString
}

type pkcs8 struct {
	Version   int
	Algorithm algorithm
	Key       []byte
}

func der(tb testing.TB, v any) []byte {
	tb.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// private returns a PKCS#8 private key whose choice is these bytes.
func private(tb testing.TB, s pq.Set, choice []byte) []byte {
	tb.Helper()
	return der(tb, pkcs8{0, algorithm{oids[s]}, choice})
}

// expanded returns the expanded private key of a seed, by circl.
func expanded(tb testing.TB, s pq.Set, seed []byte) []byte {
	tb.Helper()
	var key interface{ MarshalBinary() ([]byte, error) }
	switch s {
	case pq.MLDSA44:
		_, key = mldsa44.Scheme().DeriveKey(seed)
	case pq.MLDSA65:
		_, key = mldsa65.Scheme().DeriveKey(seed)
	case pq.MLDSA87:
		_, key = mldsa87.Scheme().DeriveKey(seed)
	case pq.MLKEM512:
		_, key = mlkem512.Scheme().DeriveKeyPair(seed)
	case pq.MLKEM768:
		_, key = mlkem768.Scheme().DeriveKeyPair(seed)
	case pq.MLKEM1024:
		_, key = mlkem1024.Scheme().DeriveKeyPair(seed)
	}
	b, err := key.MarshalBinary()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

type both struct{ Seed, Expanded []byte }

// TestDER: of both halves of a key, as encoding/asn1 writes and we read it, and the other way.
func TestDER(t *testing.T) {
	t.Parallel()
	for _, s := range every {
		seed := random(s.SeedSize())
		public := publicOf(t, s, seed)
		want := der(t, spki{algorithm{oids[s]}, asn1.BitString{Bytes: public, BitLength: 8 * len(public)}})
		if got := pq.MarshalPKIX(s, public); !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", s, got[:40], want[:40])
		}
		if set, got, err := pq.ParsePKIX(want); set != s || !bytes.Equal(got, public) || err != nil {
			t.Errorf("%s: the public key is read as %s: %v", s, set, err)
		}
		form := der(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: seed})
		written, err := pq.AppendPKCS8([]byte("before"), s, seed)
		if want := private(t, s, form); err != nil || string(written) != "before"+string(want) {
			t.Errorf("%s: got %x (%v), want %x", s, written, err, want)
		}
		full := expanded(t, s, seed)
		for what, choice := range map[string][]byte{"seed": form, "both": der(t, both{seed, full})} {
			if set, got, err := pq.ParsePKCS8(private(t, s, choice)); set != s || !bytes.Equal(got, seed) || err != nil {
				t.Errorf("%s: the form %s is read as %s: %v", s, what, set, err)
			}
		}
	}
}

// TestNoKeys: what is not the one form of a key, with the words that an operator reads.
func TestNoKeys(t *testing.T) {
	t.Parallel()
	for _, s := range every {
		seed := random(s.SeedSize())
		good, err := pq.AppendPKCS8(nil, s, seed)
		if err != nil {
			t.Fatal(err)
		}
		full := expanded(t, s, seed)
		bent := bytes.Clone(full)
		bent[len(bent)-1] ^= 1
		const none, unlike = "pq: no key", "pq: the seed does not give"
		for what, c := range map[string]struct {
			der  []byte
			want string
		}{
			"nothing":           {nil, none},
			"a byte more":       {append(bytes.Clone(good), 0), none},
			"a byte less":       {good[:len(good)-1], none},
			"version 1":         {bytes.Replace(good, []byte{2, 1, 0}, []byte{2, 1, 1}, 1), none},
			"a long length":     {append([]byte{0x30, good[1] + 1, 2, 1, 0, 0x30, 0x81}, good[6:]...), none},
			"expanded alone":    {private(t, s, der(t, full)), "pq: the private key is expanded"},
			"expanded of other": {private(t, s, der(t, both{seed, bent})), unlike},
			"short expanded":    {private(t, s, der(t, both{seed, full[1:]})), none},
			"short seed":        {private(t, s, der(t, both{seed[1:], full})), none},
			"parameters": {der(t, struct {
				Version   int
				Algorithm struct {
					OID        asn1.ObjectIdentifier
					Parameters asn1.RawValue
				}
				Key []byte
			}{0, struct {
				OID        asn1.ObjectIdentifier
				Parameters asn1.RawValue
			}{oids[s], asn1.NullRawValue}, good[len(good)-len(seed)-2:]}), none},
			"attributes": {der(t, struct {
				Version    int
				Algorithm  algorithm
				Key        []byte
				Attributes asn1.RawValue
			}{0, algorithm{oids[s]}, good[len(good)-len(seed)-2:], asn1.RawValue{Class: 2, Tag: 0, IsCompound: true}}), none},
			"another algorithm": {private(t, (s+2)%6+1, good[len(good)-len(seed)-2:]), none}, // one with seeds of another length
		} {
			if set, _, err := pq.ParsePKCS8(c.der); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%s, %s: it is a key of %s: %v, want %s", s, what, set, err, c.want)
			}
		}
		public := pq.MarshalPKIX(s, publicOf(t, s, seed))
		for what, der := range map[string][]byte{
			"nothing": nil, "a byte more": append(bytes.Clone(public), 0), "a byte less": public[:len(public)-1],
			"unused bits":  func() []byte { b := bytes.Clone(public); b[21] = 1; return b }(),
			"long lengths": append([]byte{0x30, 0x83, 0}, public[2:]...),
		} {
			if set, _, err := pq.ParsePKIX(der); err == nil {
				t.Errorf("%s, %s: it is a public key of %s", s, what, set)
			}
		}
	}
	if _, err := pq.AppendPKCS8(nil, pq.MLKEM512, make([]byte, 32)); err == nil {
		t.Error("ML-KEM has a private key of 32 bytes")
	}
	if _, err := pq.AppendPKCS8(nil, 0, nil); err == nil {
		t.Error("no set has a private key")
	}
}

// FuzzPKCS8: what is taken as a private key has the one spelling of its seed, alone or before an expanded key.
func FuzzPKCS8(f *testing.F) {
	for _, s := range every {
		seed := random(s.SeedSize())
		b, err := pq.AppendPKCS8(nil, s, seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(private(f, s, der(f, both{seed, expanded(f, s, seed)})))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, seed, err := pq.ParsePKCS8(b)
		if err != nil {
			return
		}
		alone, err := pq.AppendPKCS8(nil, s, seed)
		if err != nil || !bytes.Equal(alone, b) && !bytes.Equal(private(t, s, der(t, both{seed, expanded(t, s, seed)})), b) {
			t.Errorf("%x is taken for %x (%v)", b, alone, err)
		}
	})
}

// FuzzPKIX: what is taken as a public key has one spelling.
func FuzzPKIX(f *testing.F) {
	for _, s := range every {
		f.Add(pq.MarshalPKIX(s, publicOf(f, s, random(s.SeedSize()))))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, public, err := pq.ParsePKIX(b); err == nil && !bytes.Equal(pq.MarshalPKIX(s, public), b) {
			t.Errorf("%x is taken for %s", b, s)
		}
	})
}

// FuzzMu: a signature that is valid for the mu of a message is one of the message, says the library.
func FuzzMu(f *testing.F) {
	for _, s := range signing {
		key, public := signingKey(f, s, random(32))
		signature, err := key.Sign(nil, []byte("x"), pq.Message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(s), public.Bytes(), []byte("x"), signature)
	}
	f.Fuzz(func(t *testing.T, set byte, raw, message, signature []byte) {
		if set > byte(pq.MLDSA87) {
			return
		}
		public, err := pq.NewVerifyingKey(pq.Set(set), raw)
		if err != nil {
			return
		}
		if mu := muOf(raw, message); public.Valid(mu, signature, pq.Mu) != public.Valid(message, signature, pq.Message) {
			t.Errorf("%s: the two do not agree on %x under %x", public.Set(), signature, raw)
		}
	})
}
