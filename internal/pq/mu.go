package pq

import (
	"bytes"
	"crypto/sha3"
)

// Verification of a signature of mu: FIPS 204, algorithm 8, from line 7 on. All values here are public, so time may
// depend on them. Names are those of the standard.

// q is the modulus and n the degree (FIPS 204, table 1).
const (
	q = 8380417
	n = 256
	d = 13 // dropped bits of t
)

// shape is what of a parameter set of ML-DSA verification asks for (FIPS 204, table 1).
type shape struct {
	k, l       int
	tau, beta  int
	gamma1Bits int    // gamma1 is 2 to that power
	gamma2     uint32 // the half of an alpha
	omega      int
	challenge  int // bytes of c tilde: lambda / 4
}

var shapes = [...]shape{
	MLDSA44: {4, 4, 39, 78, 17, (q - 1) / 88, 80, 32},
	MLDSA65: {6, 5, 49, 196, 19, (q - 1) / 32, 55, 48},
	MLDSA87: {8, 7, 60, 120, 19, (q - 1) / 32, 75, 64},
}

// poly is a polynomial, or its NTT: coefficients below q.
type poly [n]uint32

// verifyMu reports whether signature is one of mu under a public key of the right length.
func verifyMu(s Set, public, mu, signature []byte) bool {
	p := &shapes[s]
	if len(mu) != MuSize || len(signature) != s.OutputSize() {
		return false
	}
	c, packed := signature[:p.challenge], signature[p.challenge:]
	zBytes := p.l * n * (p.gamma1Bits + 1) / 8
	hints, ok := p.unpackHints(packed[zBytes:])
	if !ok {
		return false
	}
	z, ok := p.unpackZ(packed[:zBytes])
	if !ok {
		return false
	}
	h := sha3.NewSHAKE256()
	h.Write(mu)
	p.commitments(h, public, c, z, hints)
	again := make([]byte, p.challenge)
	h.Read(again)
	return bytes.Equal(c, again)
}

// commitments writes w1Encode of the w1 that a signature leads to (lines 9, 10 and 12).
func (p *shape) commitments(h *sha3.SHAKE, public, c []byte, z []poly, hints []poly) {
	rho, t1 := public[:32], public[32:]
	challenge := p.sampleInBall(c)
	challenge.ntt()
	for i := range z {
		z[i].ntt()
	}
	for row := range p.k {
		var w, t poly
		for column := range p.l {
			a := rejNTT(rho, byte(column), byte(row))
			for j := range w {
				w[j] = uint32((uint64(w[j]) + uint64(a[j])*uint64(z[column][j])) % q)
			}
		}
		for j := range t {
			t[j] = bits(t1, 10, row*n+j) << d
		}
		t.ntt()
		for j := range w {
			w[j] = uint32((uint64(w[j]) + uint64(q-challenge[j])*uint64(t[j])) % q)
		}
		w.inverseNTT()
		for j := range w {
			w[j] = p.useHint(w[j], hints[row][j])
		}
		h.Write(p.encodeW1(&w))
	}
}

// unpackZ reads z and reports whether all of it is within its bound (lines 2 and 13): BitUnpack of gamma1-1 and gamma1.
func (p *shape) unpackZ(b []byte) ([]poly, bool) {
	gamma1, z := uint32(1)<<p.gamma1Bits, make([]poly, p.l)
	most := gamma1 - uint32(p.beta) // the norm is less
	for i := range z {
		for j := range z[i] {
			v := bits(b, p.gamma1Bits+1, i*n+j) // gamma1 less the coefficient
			if v <= gamma1-most || v >= gamma1+most {
				return nil, false
			}
			z[i][j] = (gamma1 + q - v) % q
		}
	}
	return z, true
}

// unpackHints is HintBitUnpack (algorithm 21): only the one encoding of hints is taken.
func (p *shape) unpackHints(y []byte) ([]poly, bool) {
	h, at := make([]poly, p.k), 0
	for i := range h {
		end := int(y[p.omega+i])
		if end < at || end > p.omega {
			return nil, false
		}
		for first := at; at < end; at++ {
			if at > first && y[at-1] >= y[at] {
				return nil, false
			}
			h[i][y[at]] = 1
		}
	}
	for ; at < p.omega; at++ {
		if y[at] != 0 {
			return nil, false
		}
	}
	return h, true
}

// useHint is algorithm 40.
func (p *shape) useHint(r, hint uint32) uint32 {
	alpha := 2 * p.gamma2
	m := (q - 1) / alpha
	r0 := r % alpha // Decompose, algorithm 36
	r1 := r / alpha
	positive := r0 > 0 && r0 <= p.gamma2
	if r0 > p.gamma2 {
		r1++ // r0 is negative
	}
	if r1 == m { // r - r0 = q-1; r0 is not positive then
		r1 = 0
	}
	switch {
	case hint == 0:
		return r1
	case positive:
		return (r1 + 1) % m
	}
	return (r1 + m - 1) % m
}

// encodeW1 is w1Encode (algorithm 28) of one polynomial: 6 bits a coefficient, or 4.
func (p *shape) encodeW1(w *poly) []byte {
	width := 4
	if p.gamma2 == (q-1)/88 {
		width = 6
	}
	out, acc, have := make([]byte, 0, n*width/8), uint32(0), 0
	for _, v := range w {
		acc |= v << have
		for have += width; have >= 8; have -= 8 {
			out = append(out, byte(acc))
			acc >>= 8
		}
	}
	return out
}

// sampleInBall is algorithm 29.
func (p *shape) sampleInBall(seed []byte) (c poly) {
	h := sha3.NewSHAKE256()
	h.Write(seed)
	var signs [8]byte
	h.Read(signs[:])
	for i := n - p.tau; i < n; i++ {
		var j [1]byte
		for h.Read(j[:]); int(j[0]) > i; h.Read(j[:]) {
		}
		c[i] = c[j[0]]
		c[j[0]] = 1
		if bit := i + p.tau - n; signs[bit/8]>>(bit%8)&1 == 1 {
			c[j[0]] = q - 1
		}
	}
	return c
}

// rejNTT is RejNTTPoly (algorithm 30) of rho and the place in the matrix.
func rejNTT(rho []byte, column, row byte) (a poly) {
	h := sha3.NewSHAKE128()
	h.Write(rho)
	h.Write([]byte{column, row})
	var block [168]byte // SHAKE128's rate, a multiple of 3
	for have := 0; have < n; {
		h.Read(block[:])
		for b := block[:]; len(b) > 0 && have < n; b = b[3:] {
			if v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2]&0x7f)<<16; v < q {
				a[have] = v
				have++
			}
		}
	}
	return a
}

// bits returns the i-th number of so many bits, little-endian (SimpleBitUnpack, algorithm 18).
func bits(b []byte, width, i int) uint32 {
	at, v := i*width, uint32(0)
	for have := 0; have < width; {
		take := min(8-at%8, width-have)
		v |= uint32(b[at/8]>>(at%8)) & (1<<take - 1) << have
		have, at = have+take, at+take
	}
	return v
}

// zetas are the powers of 1753 in bit-reversed order (FIPS 204, appendix B).
var zetas = func() (z [n]uint64) {
	for i := range z {
		z[i] = 1
		for bit := range 8 {
			if i>>bit&1 == 1 {
				z[i] = z[i] * power(1753, 128>>bit) % q
			}
		}
	}
	return z
}()

func power(base uint64, exponent int) uint64 {
	v := uint64(1)
	for range exponent {
		v = v * base % q
	}
	return v
}

// ntt is algorithm 41.
func (w *poly) ntt() {
	m := 0
	for size := n / 2; size >= 1; size /= 2 {
		for start := 0; start < n; start += 2 * size {
			m++
			for j := start; j < start+size; j++ {
				t := uint32(zetas[m] * uint64(w[j+size]) % q)
				w[j], w[j+size] = (w[j]+t)%q, (w[j]+q-t)%q
			}
		}
	}
}

// inverseNTT is algorithm 42.
func (w *poly) inverseNTT() {
	m := n
	for size := 1; size < n; size *= 2 {
		for start := 0; start < n; start += 2 * size {
			m--
			for j := start; j < start+size; j++ {
				t := w[j]
				w[j] = (t + w[j+size]) % q
				w[j+size] = uint32((q - zetas[m]) * uint64(t+q-w[j+size]) % q)
			}
		}
	}
	for j := range w {
		w[j] = uint32(uint64(w[j]) * 8347681 % q) // 256 to the power of -1
	}
}
