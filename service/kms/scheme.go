package kms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/secp256k1"
	"github.com/keyrack/keyrack/internal/securemem"
)

// scheme is what a SigningAlgorithm means: a row of schemes.
type scheme struct {
	hash  crypto.Hash          // of a RAW message, and as long as a DIGEST
	takes []kmsapi.MessageType // which messages it signs
	pure  bool                 // a message is signed itself, not its hash
	again bool                 // a DIGEST is hashed once more
	opts  crypto.SignerOpts
}

var either, rawOnly, digestOnly = []kmsapi.MessageType{kmsapi.MessageRaw, kmsapi.MessageDigest}, []kmsapi.MessageType{kmsapi.MessageRaw}, []kmsapi.MessageType{kmsapi.MessageDigest}

// schemes is the table of signatures (AWS KMS developer guide, "Key spec
// reference"): RSASSA-PSS and RSASSA-PKCS1-v1_5 of RFC 8017 with MGF1 and a salt of
// the same hash, ECDSA of FIPS 186-5 in DER, Ed25519 and Ed25519ph of RFC 8032, ML-DSA
// of FIPS 204 with an empty context. AWS's Ed25519ph takes a digest for its message, and so hashes it again.
var schemes = [...]scheme{
	kmsapi.RSASSAPSSSHA256:      pss(crypto.SHA256),
	kmsapi.RSASSAPSSSHA384:      pss(crypto.SHA384),
	kmsapi.RSASSAPSSSHA512:      pss(crypto.SHA512),
	kmsapi.RSASSAPKCS1V15SHA256: hashed(crypto.SHA256),
	kmsapi.RSASSAPKCS1V15SHA384: hashed(crypto.SHA384),
	kmsapi.RSASSAPKCS1V15SHA512: hashed(crypto.SHA512),
	kmsapi.ECDSASHA256:          hashed(crypto.SHA256),
	kmsapi.ECDSASHA384:          hashed(crypto.SHA384),
	kmsapi.ECDSASHA512:          hashed(crypto.SHA512),
	kmsapi.ED25519SHA512:        {crypto.SHA512, rawOnly, true, false, &ed25519.Options{}},
	kmsapi.ED25519PHSHA512:      {crypto.SHA512, digestOnly, false, true, &ed25519.Options{Hash: crypto.SHA512}},
	kmsapi.MLDSASHAKE256:        {crypto.SHA512, rawOnly, true, false, pq.Message},
}

// externalMu is ML_DSA_SHAKE_256 of a message whose representative mu was computed
// elsewhere (FIPS 204, algorithm 7, line 6).
var externalMu = scheme{crypto.SHA512, []kmsapi.MessageType{kmsapi.MessageExternalMu}, true, false, pq.Mu}

// schemeOf returns the scheme of an algorithm for a type of message.
func schemeOf(name kmsapi.SigningAlgorithm, t kmsapi.MessageType) *scheme {
	if name == kmsapi.MLDSASHAKE256 && t == kmsapi.MessageExternalMu {
		return &externalMu
	}
	return &schemes[name]
}

func hashed(h crypto.Hash) scheme { return scheme{h, either, false, false, h} }

func pss(h crypto.Hash) scheme {
	return scheme{h, either, false, false, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}}
}

// input appends to dst what is signed of a message, or returns the message itself.
func (a *scheme) input(dst []byte, t kmsapi.MessageType, message []byte) []byte {
	if a.pure || t == kmsapi.MessageDigest && !a.again {
		return message
	}
	h := a.hash.New()
	h.Write(message)
	return h.Sum(dst)
}

// accepts refuses a message that the algorithm called name does not sign with a key of a spec. The texts
// for a digest's length and for a type are AWS's: localstack's recordings of it
// (tests/aws/services/kms/test_kms.snapshot.json), and github.com/floci-io/floci, issue 3025, measured in us-east-1.
func (a *scheme) accepts(spec kmsapi.KeySpec, name kmsapi.SigningAlgorithm, t kmsapi.MessageType, message []byte) error {
	for _, ok := range a.takes {
		if ok != t {
			continue
		}
		if t == kmsapi.MessageDigest && len(message) != a.hash.Size() {
			return api.Errorf(api.KindValidation, "Digest is invalid length for algorithm %s.", name)
		}
		if t == kmsapi.MessageExternalMu && len(message) != pq.MuSize {
			return api.Errorf(api.KindValidation, "Message is invalid length for MessageType %s: it has %d bytes, a mu has %d.", t, len(message), pq.MuSize)
		}
		return nil
	}
	if name == kmsapi.MLDSASHAKE256 {
		return api.Errorf(api.KindValidation, "Message type %s is incompatible with key spec %s.", t, spec)
	}
	return api.Errorf(api.KindValidation, "Message type %s is incompatible with algorithm %s.", t, name)
}

// errFalseSignature is the cause when a signature that was just made is not valid.
var errFalseSignature = errors.New("a signature does not verify under its own public key")

// sign signs an input and checks what it made: the private key, or the computation,
// may have suffered, and a false signature can betray the key (Boneh, DeMillo and
// Lipton, "On the Importance of Checking Cryptographic Protocols for Faults", 1997).
func (a *scheme) sign(s *signer, input []byte) (signature []byte, err error) {
	securemem.Do(func() { signature, err = s.private.Sign(rand.Reader, input, a.opts) }) // a nonce is worth the key
	if err != nil {
		return nil, errors.Join(errFalseSignature, err)
	}
	if !a.valid(s.public, input, signature) {
		return nil, errFalseSignature
	}
	return signature, nil
}

// prove signs something.
func (s *signer) prove(can algorithms) error {
	a := &schemes[can.signing[0]]
	_, err := a.sign(s, make([]byte, a.hash.Size()))
	return err
}

// valid reports whether a signature is one of input.
func (a *scheme) valid(public crypto.PublicKey, input, signature []byte) bool {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if opts, ok := a.opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(public, a.hash, input, signature, opts) == nil
		}
		return rsa.VerifyPKCS1v15(public, a.hash, input, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, input, signature)
	case ed25519.PublicKey:
		return ed25519.VerifyWithOptions(public, input, signature, a.opts.(*ed25519.Options)) == nil
	case *secp256k1.PublicKey:
		return public.Valid(input, signature)
	case *pq.VerifyingKey:
		return public.Valid(input, signature, a.opts)
	}
	return false
}
