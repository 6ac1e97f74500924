package main

import (
	"encoding/pem"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// The commands of imported key material.
var (
	// keyImportCommand is kms:ImportKeyMaterial, with GetParametersForImport before it.
	keyImportCommand = command{
		name: "key import", args: "KEY (--file FILE | --token FILE --encrypted FILE) [--expires WHEN] [--new]", short: "bring key material that was made elsewhere",
		long: `
Imports key material into a key that was made with key create --origin EXTERNAL. With
--file it does all of it: it gets a public key, encrypts the material for it and sends
it. The file holds the bytes themselves of a symmetric or HMAC key, and a private key
in PKCS#8, PEM or DER, of an asymmetric one; it stays where it is: keep it safe, or
destroy it.

Where the material was encrypted elsewhere, in an HSM, give what key import-parameters
wrote as --token, and the material as --encrypted.

A key takes the same material again, to change when it expires, or after it expired or
was deleted: without --expires it does not expire any more. A symmetric key takes other
material with --new, which waits until key rotate. Of a symmetric key it prints the id
of the material.`,
		examples: []string{
			"keyrack key import alias/mail --file material.bin",
			"keyrack key import alias/signing --file signing.pem --expires 90d",
			"keyrack key import alias/mail --file next.bin --new --description 2027",
			"keyrack key import alias/mail --token token.bin --encrypted wrapped.bin",
		},
		flags: keyImportFlags,
	}
	// keyImportParametersCommand is kms:GetParametersForImport.
	keyImportParametersCommand = command{
		name: "key import-parameters", args: "KEY --out-key FILE --out-token FILE [--wrapping ALGORITHM] [--wrapping-key SPEC]", short: "a public key to encrypt key material for",
		long: `
Writes a public key, PEM, and the import token that belongs to it, and prints until when
they are good, for one import. Whoever holds the key material encrypts it for that
public key; key import with --token and --encrypted brings it. Parameters of before
are good for nothing from then on.

The material of RSA keys needs one of RSA_AES_KEY_WRAP; openssl does the others:
openssl pkeyutl -encrypt -pubin -inkey wrapping.pem -in material.bin -out wrapped.bin
-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256`,
		examples: []string{"keyrack key import-parameters alias/mail --wrapping RSAES_OAEP_SHA_256 --out-key p --out-token t"},
		flags:    keyImportParametersFlags,
	}
)

// importFlags are what key import is told.
type importFlags struct {
	file, token, encrypted, expires string
	fresh                           bool
	wrapping                        wrappingFlags
	in                              kmsapi.ImportKeyMaterialRequest
}

// wrappingFlags say how material is encrypted.
type wrappingFlags struct {
	algorithm kmsapi.WrappingAlgorithm
	spec      kmsapi.WrappingKeySpec
}

func (w *wrappingFlags) declare(fs *flag.FlagSet) {
	w.algorithm, w.spec = kmsapi.WrapAESKeyWrapSHA256, kmsapi.WrappingRSA4096
	declareEnum(fs, &w.algorithm, "wrapping", "encrypt by `ALGORITHM`, AWS's name such as RSAES_OAEP_SHA_256; RSA_AES_KEY_WRAP_SHA_256 if it is left out")
	declareEnum(fs, &w.spec, "wrapping-key", "encrypt for a key of `SPEC`: RSA_2048, RSA_3072, or RSA_4096 if it is left out")
}

func (w *wrappingFlags) get(c *client.Client, key api.KeyRef) (*kmsapi.GetParametersForImportResponse, error) {
	return call(c, kmsapi.GetParametersForImport, &kmsapi.GetParametersForImportRequest{KeyId: key, WrappingAlgorithm: w.algorithm, WrappingKeySpec: w.spec})
}

// keyImportFlags declares the flags and acts.
func keyImportFlags(fs *flag.FlagSet) action {
	var f importFlags
	fs.StringVar(&f.file, "file", "", "import the key material in `FILE`; - is standard input")
	fs.StringVar(&f.token, "token", "", "with --encrypted: the import token in `FILE`")
	fs.StringVar(&f.encrypted, "encrypted", "", "with --token: the key material in `FILE`, encrypted for its public key")
	fs.StringVar(&f.expires, "expires", "", "destroy the material at `WHEN`: 90d, a date such as 2027-01-31 (its first moment in UTC) or a time such as 2027-01-31T12:00:00Z; at most 365 days; never if it is left out")
	fs.BoolVar(&f.fresh, "new", false, "it is other material than before, for the next rotation of a symmetric key")
	fs.StringVar(&f.in.KeyMaterialDescription, "description", "", "describe the material of a symmetric key as `TEXT`; it is not secret")
	fs.StringVar(&f.in.KeyMaterialId, "material", "", "only if it is the material with `ID`, 64 hex digits, of a symmetric key")
	f.wrapping.declare(fs)
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		if err := f.settle(time.Now()); err != nil {
			return err
		}
		m, err := call(c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: api.ParseKeyRef([]byte(key))})
		if err != nil {
			return err
		}
		f.in.KeyId = api.ParseKeyRef([]byte(m.KeyMetadata.Arn))
		if err := f.load(sh, c, &m.KeyMetadata); err != nil {
			return err
		}
		out, err := call(c, kmsapi.ImportKeyMaterial, &f.in)
		if err != nil {
			return err
		}
		text := ""
		if out.KeyMaterialId != "" {
			text = out.KeyMaterialId + "\n"
		}
		return format.print(sh.out, responseJSON(kmsapi.ImportKeyMaterial.Op, out), text)
	})
}

// settle checks the flags against each other.
func (f *importFlags) settle(now time.Time) (err error) {
	if (f.file == "") == (f.token == "" && f.encrypted == "") || (f.token == "") != (f.encrypted == "") {
		return usagef("keyrack help key import", "key import: give either --file, or --token and --encrypted")
	}
	if f.fresh {
		f.in.ImportType = kmsapi.NewKeyMaterial
	}
	f.in.ExpirationModel = kmsapi.MaterialDoesNotExpire
	if f.expires == "" {
		return nil
	}
	f.in.ExpirationModel = kmsapi.MaterialExpires
	f.in.ValidTo, err = expiry(f.expires, now)
	return err
}

// expiry reads a number of days, "90d", a date or a time.
func expiry(text string, now time.Time) (api.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 64); err == nil {
			if n < 1 || n > 365 {
				return 0, usagef("keyrack help key import", "key import: --expires is %q, want 1d to 365d", text)
			}
			return api.TimeOf(now.Add(time.Duration(n) * 24 * time.Hour)), nil
		}
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		at, err = time.Parse(time.DateOnly, text)
	}
	if err != nil {
		return 0, usagef("keyrack help key import", "key import: --expires %q is neither days, as 90d, nor a date, as 2027-01-31, nor a time, as 2027-01-31T12:00:00Z", text)
	}
	if at.Unix() < 0 || at.Unix() >= 1<<32 { // no request can carry it; any other is for the appliance to judge
		return 0, usagef("keyrack help key import", "key import: --expires is %q, want a time within 365 days", text)
	}
	return api.TimeOf(at), nil
}

// load fills in the token and the encrypted material.
func (f *importFlags) load(sh *shell, c *client.Client, m *kmsapi.KeyMetadata) error {
	if m.Origin != kmsapi.OriginExternal {
		return hinted("make a key with keyrack key create --origin EXTERNAL: its material is imported", "key %s makes its own key material, its origin is %s", m.KeyId, m.Origin)
	}
	if f.file == "" {
		return f.loadEncrypted(sh)
	}
	text, err := sh.readInput(f.file, maxMaterialFile)
	if err != nil {
		return fmt.Errorf("read the key material: %w", err)
	}
	defer clear(text)
	material, err := materialIn(text, m.KeySpec)
	if err != nil {
		return err
	}
	defer clear(material)
	p, err := f.wrapping.get(c, f.in.KeyId)
	if err != nil {
		return err
	}
	f.in.ImportToken = p.ImportToken
	f.in.EncryptedKeyMaterial, err = wrapMaterial(f.wrapping.algorithm, p.PublicKey, material)
	return err
}

// loadEncrypted reads what was made elsewhere.
func (f *importFlags) loadEncrypted(sh *shell) (err error) {
	if f.in.ImportToken, err = sh.readPart("import token", f.token); err != nil {
		return err
	}
	f.in.EncryptedKeyMaterial, err = sh.readPart("encrypted key material", f.encrypted)
	return err
}

// readPart reads a file of an import, of 1 to 6144 bytes.
func (sh *shell) readPart(what, path string) ([]byte, error) {
	b, err := sh.readInput(path, api.MaxCiphertext)
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	if len(b) == 0 || len(b) > api.MaxCiphertext {
		return nil, hinted("give the file exactly as it was made, not as base64 or hex", "%s holds no %s: it is empty or has more than %d bytes", path, what, api.MaxCiphertext)
	}
	return b, nil
}

// keyImportParametersFlags declares the flags and acts.
func keyImportParametersFlags(fs *flag.FlagSet) action {
	var w wrappingFlags
	w.declare(fs)
	public := placeFlag(fs, "out-key", "the public key", "write the public key to `FILE`, PEM, as --out of other commands does")
	token := placeFlag(fs, "out-token", "the import token", "write the import token to `FILE` as --out of other commands does")
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		if *public == "" || *token == "" || sh.sameOutput(*public, *token) {
			return usagef("keyrack help key import-parameters", "key import-parameters: --out-key and --out-token are both needed, and are two files")
		}
		ref, err := keyOnly(c, key)
		if err != nil {
			return err
		}
		out, err := w.get(c, ref)
		if err != nil {
			return err
		}
		if err := sh.writeOutput(*token, out.ImportToken); err != nil {
			return fmt.Errorf("write the import token: %w", err)
		}
		if err := sh.writeOutput(*public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: out.PublicKey})); err != nil {
			return fmt.Errorf("write the public key: %w", err)
		}
		return format.print(sh.out, responseJSON(kmsapi.GetParametersForImport.Op, out), fmt.Sprintf("good for one import until %s\n", out.ParametersValidTo.Time().Format(time.RFC3339)))
	})
}
