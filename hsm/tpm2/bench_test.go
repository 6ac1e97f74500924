package tpm2_test

import (
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
)

// What the package comment says of times.
func BenchmarkToken(b *testing.B) {
	p, err := tpm2.Open(b.Context(), tpm2.Config{Path: swtpm.Start(b).Path()})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	root, blob, err := p.Generate(b.Context(), hsm.PRFSHA256)
	if err != nil {
		b.Fatal(err)
	}
	signer, other, err := p.Generate(b.Context(), hsm.SignP256)
	if err != nil {
		b.Fatal(err)
	}
	input := make([]byte, 32)
	for name, f := range map[string]func() error{
		"PRF":  func() error { _, err := root.(hsm.PRF).PRF(b.Context(), nil, input); return err },
		"Sign": func() error { _, err := signer.(hsm.Signer).SignDigest(b.Context(), input); return err },
		"Load": func() error { _, err := p.Load(b.Context(), blob); return err },
		"LoadAndPRF": func() error {
			if _, err := p.Load(b.Context(), other); err != nil { // so that the other is loaded anew
				return err
			}
			k, err := p.Load(b.Context(), blob)
			if err != nil {
				return err
			}
			_, err = k.(hsm.PRF).PRF(b.Context(), nil, input)
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
