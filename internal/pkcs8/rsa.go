package pkcs8

import (
	"fmt"
	"math/big"

	"github.com/keyrack/keyrack/internal/securemem"
)

var (
	one   = big.NewInt(1)
	whole = big.NewInt(65537) // the one public exponent of the material format
)

// rsaKey is RSAPrivateKey (RFC 8017, appendix A.1.2) of two primes.
type rsaKey struct{ n, e, d, p, q, dp, dq, qinv *big.Int }

// readRSA reads a key of 2048, 3072 or 4096 bits, and checks all of it but that its primes are such, which Parse does.
// Its secret is the greater prime and then the other: a key has one secret, in whichever order its file has them.
func readRSA(parameters, secret, public []byte) (*Key, error) {
	null := reader{rest: parameters}
	null.next(tagNull)
	all := reader{rest: secret}
	key := all.in(tagSequence)
	version := key.integer()
	k := &rsaKey{key.integer(), key.integer(), key.integer(), key.integer(), key.integer(), key.integer(), key.integer(), key.integer()}
	if version.Cmp(one) == 0 && !key.bad {
		return nil, refused("it has more than two primes")
	}
	if !null.end() || !all.end() || !key.end() || version.Sign() != 0 || public != nil {
		return nil, ErrForm
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	if k.p.Cmp(k.q) < 0 {
		k.p, k.q = k.q, k.p
	}
	half := k.n.BitLen() / 16
	s := make([]byte, 2*half)
	k.p.FillBytes(s[:half])
	k.q.FillBytes(s[half:])
	return &Key{Spec: fmt.Sprintf("RSA_%d", k.n.BitLen()), Secret: s, primes: &primes{k.p, k.q}}, nil
}

// check compares what the file says with what the primes make of it, and refuses keys that are known to break.
func (k *rsaKey) check() error {
	bits := k.n.BitLen()
	switch {
	case bits != 2048 && bits != 3072 && bits != 4096:
		return refused("an RSA key has 2048, 3072 or 4096 bits, this one %d", bits)
	case k.e.Cmp(whole) != 0:
		return refused("its public exponent is not 65537, the one that RSA keys have here")
	case k.p.BitLen() != bits/2 || k.q.BitLen() != bits/2:
		return refused("its primes have not half the bits of the modulus each")
	case new(big.Int).Mul(k.p, k.q).Cmp(k.n) != 0:
		return refused("its primes do not make its modulus")
	case k.close():
		return refused("its primes are so close to each other that the modulus can be factored")
	case fromROCA(k.n):
		return refused("it was made by a generator whose keys can be factored (ROCA, CVE-2017-15361): make another one elsewhere")
	case !k.consistent():
		return refused("its private exponents do not fit its primes and its public exponent")
	}
	return nil
}

// close reports whether |p - q| is at most 2^(bits/2 - 100) (FIPS 186-5, appendix A.1.3, step 5.4): Fermat's method factors those that
// are far closer.
func (k *rsaKey) close() bool {
	distance := new(big.Int).Sub(k.p, k.q)
	return distance.BitLen() <= k.n.BitLen()/2-100
}

// consistent reports whether d and the members of the Chinese remainder theorem are those of the primes (RFC 8017, section
// 3.2). d may be the inverse of e modulo lcm(p-1, q-1) or modulo (p-1)(q-1), both less than n.
func (k *rsaKey) consistent() bool {
	p1, q1 := new(big.Int).Sub(k.p, one), new(big.Int).Sub(k.q, one)
	if k.d.Cmp(k.n) >= 0 || !inverse(k.e, k.d, p1) || !inverse(k.e, k.d, q1) {
		return false
	}
	mod := func(x, m *big.Int) *big.Int { return new(big.Int).Mod(x, m) }
	return mod(k.d, p1).Cmp(k.dp) == 0 && mod(k.d, q1).Cmp(k.dq) == 0 && k.qinv.Cmp(k.p) < 0 && inverse(k.q, k.qinv, k.p)
}

// inverse reports whether a·b = 1 modulo m.
func inverse(a, b, m *big.Int) bool {
	product := new(big.Int).Mul(a, b)
	return product.Mod(product, m).Cmp(one) == 0
}

// primes are what is still to be shown to be prime.
type primes struct{ p, q *big.Int }

// rounds of Miller and Rabin beside one of Baillie and others: a number that somebody chose passes with probability 4^-rounds.
const rounds = 20

// check takes tenths of a second, a prime at a time.
func (f *primes) check() error {
	for _, x := range []*big.Int{f.p, f.q} {
		var prime bool
		securemem.Do(func() { prime = x.ProbablyPrime(rounds) })
		if !prime {
			return refused("one of its primes is not prime")
		}
	}
	return nil
}

// fromROCA reports whether n has the fingerprint of keys whose primes are k·M + (65537^a mod M), M the product of the
// first primes: modulo each of those, n is a power of 65537 (Nemec and others, "The Return of Coppersmith's Attack", 2017,
// section 2.1). Of other keys fewer than one in 2^27 has it.
func fromROCA(n *big.Int) bool {
	for m := int64(3); m <= 167; m += 2 {
		if !big.NewInt(m).ProbablyPrime(0) {
			continue
		}
		rest := new(big.Int).Mod(n, big.NewInt(m)).Int64()
		power, found := int64(1), false
		for range m {
			found = found || power == rest
			power = power * 65537 % m
		}
		if !found {
			return false
		}
	}
	return true
}
