package main_test

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
)

// errorSections returns the tables of the page in their order.
func errorSections() []errorSection {
	return []errorSection{
		{"Command lines", commandLines},
		{"Environment, network, certificates", theWayThere},
		{"Keys, ciphertexts, files", keysAndFiles},
		{"Rotation, deletion, import, time", lifeOfKeys},
		{"Folders, tokens, addresses", foldersAndTokens}, {"PKCS#11 tokens", pkcs11Tokens},
		{"An appliance and its operator", operators},
		{"The audit log", auditLogs},
		{"Damage, and no room", damages},
		{"The native protocol", frames},
		{"Members of requests", members},
	}
}

// commandLines make no sense, and need no appliance to be told so. They are not
// for a shell: their words are what stands between spaces.
func commandLines(t *testing.T) (rows []errorRow) {
	for _, c := range [][2]string{
		{"no command", ""},
		{"an unknown command", "polish"},
		{"a group without a command", "key"},
		{"an unknown command of a group", "audit polish"},
		{"help of an unknown command", "help polish"},
		{"a flag before the command", "--output json key list"},
		{"an unknown flag", "key create --colour red"},
		{"a flag without its value", "key create --description"},
		{"an argument too many", "key create stray"},
		{"an unknown format", "key create --output yaml"},
		{"a context that is no pair", "encrypt --context user"},
		{"a context given twice", "encrypt --context user=ann --context user=bob"},
		{"encrypt without a key", "encrypt"},
		{"re-encrypt without a key", "re-encrypt"},
		{"a key that is empty", "encrypt --key="},
		{"datakey without a key", "datakey"},
		{"both results of datakey in one place", "datakey --key k --out a --out-plaintext a"},
		{"datakey of an impossible length", "datakey --key k --bytes 0"},
		{"datakey-pair without a key", "datakey-pair"},
		{"datakey-pair of no kind", "datakey-pair --key k"},
		{"datakey-pair without a place for the public key", "datakey-pair --key k --spec RSA_2048"},
		{"two results of datakey-pair in one place", "datakey-pair --key k --spec RSA_2048 --out a --out-public a"},
		{"derive without a key", "derive"},
		{"derive without another's public key", "derive --key k"},
		{"decrypt by an RSA algorithm without a key", "decrypt --algorithm RSAES_OAEP_SHA_256"},
		{"re-encrypt from an RSA algorithm without a key", "re-encrypt --key k --from-algorithm RSAES_OAEP_SHA_256"},
		{"random of an impossible length", "random --bytes 9999"},
		{"describe without a key", "key describe"},
		{"two keys where one is meant", "key describe a b"},
		{"tag without a key", "key tag"},
		{"tag without tags", "key tag k"},
		{"call without an operation", "call kms"},
		{"call of an unknown operation", "call kms Polish"},
		{"call with an argument too many", "call kms Encrypt stray"},
		{"a secret on the command line", "call kms Encrypt --plaintext aGVsbG8="},
		{"bytes that are not base64", "call kms Decrypt --ciphertext-blob !"},
		{"a number that is none", "bench --conns many"},
		{"a time that is none", "status --wait long"},
		{"audit tail of no records", "audit tail -n 0"},
		{"audit search for a time that is none", "audit search --from soon"},
		{"audit search for a time that ends before it begins", "audit search --from today --to yesterday"},
		{"audit search for an unknown operation", "audit search --op Polish"},
		{"audit search for an unknown outcome", "audit search --outcome fine"},
		{"audit search for half the hash of a key", "audit search --who sha256:12"},
		{"audit search with --key but without a folder", "audit search --key k"},
		{"audit search of two folders", "audit search a b"},
		{"audit verify without a folder", "audit verify"},
		{"audit verify without a key", "audit verify ."},
		{"bench of an unknown operation", "bench --op polish"},
		{"bench without a length of time", "bench --duration 0s"},
		{"dev with a command that is not behind --", "dev keyrack"},
		{"dev with nothing behind --", "dev --"},
		{"dev --demo with a command", "dev --demo -- true"},
		{"dev without a home", "dev"},
		{"init without a folder", "init"},
		{"serve without a folder", "serve"},
		{"an unknown kind of token", "init --dir rack --token tpm3"},
		{"a token without its path", "init --dir rack --token soft:"},
		{"a PIN on the command line", "init --dir rack --token tpm2:pin=1234"},
		{"a PIN from two places", "init --dir rack --token tpm2:pin-ask=yes;pin-file=/etc/pin"},
		{"token list of a library that is no path", "token list --module libsofthsm2.so"},
		{"token info of an unknown kind", "token info tpm3"},
		{"token info of two", "token info soft tpm2"},
		{"an address without a port", "serve --dir rack --listen 127.0.0.1:"},
		{"an impossible port", "serve --dir rack --listen 127.0.0.1:99999"},
		{"a folder and a socket", "status --dir rack --socket rack/keyrack.sock"},
		{"principal add without a name", "principal add --out clients"},
		{"principal add without a key", "principal add ann"},
		{"a principal's name that is a path", "principal add ../ann --out clients"},
		{"client init without a name", "client init"},
		{"principal remove of two", "principal remove a b"},
	} {
		status, _, stderr := keyrack.Run(nil, strings.Fields(c[1])...)
		if status == 0 {
			t.Errorf("%s: keyrack %s succeeds", c[0], c[1])
			continue
		}
		rows = append(rows, readError(t, c[0]+": `keyrack "+c[1]+"`", status, stderr, nil))
	}
	return rows
}

// theWayThere is what is between a client and its appliance.
func theWayThere(t *testing.T) []errorRow {
	r := racktest.Start(t)
	nobody(t, r)
	expired(t, r)
	dir := shortDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go answerHTTP(l)
	env := append(environment(r), "DEAD_ADDR="+deadAddress(t), "HTTP_ADDR="+l.Addr().String(), "RACK="+r.Dir, "OTHER_KEY="+racktest.Start(t).AuditKey())
	prepare(t, dir, nil, "echo 'no certificate' > page")
	return provoke(t, dir, env, map[string]string{dir: "DIR", r.Dir: "DIR"}, []errorCase{
		{"no address", "unset KEYRACK_ADDR; keyrack key list"},
		{"no server key", "unset KEYRACK_SERVER_KEY; keyrack key list"},
		{"no certificate", "unset KEYRACK_CERT; keyrack key list"},
		{"no socket", "unset KEYRACK_SOCKET; keyrack status"},
		{"an address without a port", "KEYRACK_ADDR=localhost keyrack key list"},
		{"nobody listens", "KEYRACK_ADDR=$DEAD_ADDR keyrack key list"},
		{"something else listens", "KEYRACK_ADDR=$HTTP_ADDR keyrack key list"},
		{"a server key that is none", "KEYRACK_SERVER_KEY=sha256:beef keyrack key list"},
		{"the key of another server", "KEYRACK_SERVER_KEY=sha256:$(printf %064d 0) keyrack key list"},
		{"a certificate that is not there", "KEYRACK_CERT=missing.pem keyrack key list"},
		{"a certificate that is none", "KEYRACK_CERT=page keyrack key list"},
		{"a certificate of another key", "KEYRACK_CERT=$RACK/stranger.pem keyrack key list"},
		{"a client that is not registered", "KEYRACK_CERT=$RACK/nobody.pem KEYRACK_KEY=$RACK/nobody.key keyrack key list"},
		{"a certificate that is over", "KEYRACK_CERT=$RACK/expired.pem keyrack key list"},
		{"an audit key that is none", "KEYRACK_AUDIT_KEY=nonsense keyrack key list"},
		{"the audit key of another appliance", "KEYRACK_AUDIT_KEY=$OTHER_KEY keyrack key list"},
		{"no appliance made the socket", "KEYRACK_SOCKET=nothing.sock keyrack status"},
		{"the folder is a file", "keyrack status --dir page"},
		{"a folder whose path is too long", "keyrack status --dir /" + strings.Repeat("x", 120)},
		{"the operator's operations over TLS", "unset KEYRACK_SOCKET; keyrack call keyrack ListPrincipals"},
		{"random bytes into a terminal or device", "keyrack random > /dev/full"},
		{"standard output is full", "keyrack key create > /dev/full"},
	})
}

// answerHTTP is a server that speaks something else.
func answerHTTP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		c.Close()
	}
}

// keysAndFiles are of a client that is connected.
func keysAndFiles(t *testing.T) []errorRow {
	r := racktest.Start(t)
	dir := shortDir(t)
	env := append(environment(r), "OTHER="+r.Dir)
	prepare(t, dir, env, `
keyrack key create > key; keyrack key create > off; keyrack key disable "$(cat off)"
KEYRACK_CERT=$OTHER/stranger.pem KEYRACK_KEY=$OTHER/stranger.key keyrack key create > foreign
echo hello > letter; keyrack encrypt --key "$(cat key)" --context to=bob --in letter --out letter.enc
KEYRACK_CERT=$OTHER/stranger.pem KEYRACK_KEY=$OTHER/stranger.key keyrack encrypt --key "$(cat foreign)" --in letter --out foreign.enc
keyrack alias create alias/letters --key "$(cat key)"
keyrack key enable "$(cat off)"; keyrack encrypt --key "$(cat off)" --in letter --out off.enc; keyrack key disable "$(cat off)"
: > empty; head -c 7000 /dev/zero > large; head -c 100 /dev/zero > garbage; mkdir locked; chmod 500 locked
for i in $(seq 51); do printf 'tag%s=x ' $i; done > tags`)
	rows := provoke(t, dir, env, map[string]string{dir: "DIR", r.Dir: "DIR"}, []errorCase{
		{"a key that is not there", "keyrack encrypt --key 00000000-0000-4000-8000-000000000000 --in letter"},
		{"a key that no name can be", "keyrack key describe 'no key'"},
		{"an ARN that is none of KMS", "keyrack key describe arn:aws:s3:::bucket"},
		{"a key ARN with no key id in it", "keyrack key describe arn:aws:kms:rack-1:111122223333:key/mail"},
		{"another account's key", "keyrack encrypt --key $(cat foreign) --in letter"},
		{"an alias that is not there", "keyrack encrypt --key alias/nothing --in letter"},
		{"a key into its own region", "keyrack call kms ReplicateKey --key-id $(keyrack call kms CreateKey --multi-region | sed -n 's/^KeyMetadata.KeyId *//p') --replica-region rack-1"},
		{"another region's key", "keyrack encrypt --key arn:aws:kms:mars-1:111122223333:key/$(cat key) --in letter"},
		{"an alias where a key is meant", "keyrack call kms DisableKey --key-id alias/letters"},
		{"a disabled key", "keyrack encrypt --key $(cat off) --in letter"},
		{"a ciphertext of a disabled key", "keyrack decrypt --in off.enc"},
		{"another context", "keyrack decrypt --context to=eve --in letter.enc"},
		{"no context", "keyrack decrypt --in letter.enc"},
		{"not a ciphertext", "keyrack decrypt --in garbage"},
		{"another account's ciphertext", "keyrack decrypt --in foreign.enc"},
		{"another key than the ciphertext's", "keyrack decrypt --key $(keyrack key create) --context to=bob --in letter.enc"},
		{"nothing to encrypt", "keyrack encrypt --key $(cat key) --in empty"},
		{"too much to encrypt", "keyrack encrypt --key $(cat key) --in large"},
		{"nothing to decrypt", "keyrack decrypt --in empty"},
		{"too much to decrypt", "keyrack decrypt --in large"},
		{"re-encrypt from another context", "keyrack re-encrypt --key $(cat key) --from-context to=eve --in letter.enc"},
		{"a file that is not there", "keyrack encrypt --key $(cat key) --in missing"},
		{"a folder that is not there", "keyrack encrypt --key $(cat key) --in letter --out no/such/file"},
		{"a folder for a file", "keyrack encrypt --key $(cat key) --in ."},
		{"an alias that is there", "keyrack alias create alias/letters --key $(cat key)"},
		{"an alias of AWS's own", "keyrack alias create alias/aws/letters --key $(cat key)"},
		{"an alias with other characters", "keyrack alias create 'alias/a b' --key $(cat key)"},
		{"an alias that is not there, to change", "keyrack alias update alias/nothing --key $(cat key)"},
		{"an alias that is not there, to delete", "keyrack alias delete alias/nothing"},
		{"a tag of AWS's own", "keyrack key tag $(cat key) aws:x=y"},
		{"a tag given twice", "keyrack key tag $(cat key) a=1 a=2"},
		{"too many tags", "keyrack key tag $(cat key) $(cat tags)"},
		{"more tags than a key may have", "keyrack key tag $(cat key) $(cut -d' ' -f1-40 tags) && keyrack key tag $(cat key) more=1 yet=2 $(cut -d' ' -f41-51 tags)"},
		{"a key of a kind that is not there", "keyrack call kms CreateKey --key-spec SM2 --key-usage SIGN_VERIFY"},
		{"a usage that the kind does not have", "keyrack call kms CreateKey --key-usage SIGN_VERIFY"},
		{"an origin that is not there", "keyrack call kms CreateKey --origin EXTERNAL_KEY_STORE"},
		{"key material that is too short", "keyrack key create --origin EXTERNAL >ext && printf x >short && keyrack key import $(cat ext) --file short"},
		{"key material for a key that makes its own", "keyrack key import $(cat key) --file short"},
		{"an import token that is none", "keyrack key import $(cat ext) --token short --encrypted short"},
		{"the key material of another key", "head -c 32 /dev/zero >a.bin && head -c 32 /dev/urandom >b.bin && keyrack key import $(cat ext) --file a.bin --wrapping-key RSA_2048 >id && keyrack key import $(cat ext) --file b.bin --wrapping-key RSA_2048"},
		{"a private key that is none", "keyrack key create --origin EXTERNAL --spec ECC_NIST_P256 --usage SIGN_VERIFY >ec && keyrack key import $(cat ec) --file short"},
		{"a wrapping that is not offered", "keyrack key import $(cat ext) --file a.bin --wrapping RSAES_PKCS1_V1_5"},
		{"a copy of a key in another region", "keyrack call kms ReplicateKey --key-id $(cat key) --replica-region rack-2"},
		{"a custom key store", "keyrack call kms CreateCustomKeyStore --custom-key-store-name hsm"},
		{"a custom key store that is not there", "keyrack call kms DescribeCustomKeyStores --custom-key-store-id cks-1"},
		{"two names of one custom key store", "keyrack call kms DescribeCustomKeyStores --custom-key-store-id cks-1 --custom-key-store-name hsm"},
		{"a key policy that is none", "keyrack call kms CreateKey --policy nonsense"},
		{"a grant token", "keyrack call kms Encrypt --key-id $(cat key) --plaintext @letter --grant-tokens x"},
		{"a dry run", "keyrack call kms Encrypt --key-id $(cat key) --plaintext @letter --dry-run"},
		{"another algorithm", "keyrack call kms Encrypt --key-id $(cat key) --plaintext @letter --encryption-algorithm RSAES_OAEP_SHA_256"},
		{"update without a description", "keyrack key update k"},
		{"a tag that is no pair", "keyrack key tag k colour"},
		{"untag with a value", "keyrack key untag k colour=red"},
		{"an alias without its prefix", "keyrack alias create letters --key k"},
		{"an alias without a key", "keyrack alias create alias/letters"},
		{"a request that is no JSON", "keyrack call kms Encrypt --json letter"},
		{"a request that is too large", "keyrack call kms Encrypt --json /dev/zero"},
		{"a recipient", `keyrack call kms GenerateRandom --number-of-bytes 8 --recipient '{"AttestationDocument":"AA==","KeyEncryptionAlgorithm":"RSAES_OAEP_SHA_256"}'`},
		{"a custom key store", "keyrack call kms GenerateRandom --number-of-bytes 8 --custom-key-store-id cks-1"},
		{"random bytes, none", "keyrack call kms GenerateRandom"},
		{"a data key of no length", "keyrack call kms GenerateDataKey --key-id $(cat key)"},
		{"a key of another kind without a usage", "keyrack key create --spec HMAC_256"},
		{"a kind of key that nobody knows", "keyrack key create --spec HMAC_257"},
		{"a MAC with a key that encrypts", "keyrack mac --key $(cat key) --in letter"},
		{"a MAC of nothing", "keyrack mac --key $(cat key) --in /dev/null"},
		{"a MAC of more than 4096 bytes", "keyrack mac --key $(cat key) --in /dev/zero"},
		{"a MAC that is not the message's", "keyrack key create --spec HMAC_256 --usage GENERATE_VERIFY_MAC >hmac && keyrack verify-mac --key $(cat hmac) --mac letter --in letter"},
		{"a MAC of another algorithm than the key's", "keyrack call kms GenerateMac --key-id $(cat hmac) --message @letter --mac-algorithm HMAC_SHA_512"},
		{"a signature with a key that encrypts", "keyrack sign --key $(cat key) --in letter"},
		{"a signature that is not the message's", "keyrack key create --spec ECC_NIST_P256 --usage SIGN_VERIFY >p256 && keyrack verify --key $(cat p256) --signature letter --in letter"},
		{"a signature by an algorithm that is not the key's", "keyrack sign --key $(cat p256) --algorithm ECDSA_SHA_384 --in letter"},
		{"a digest of another length", "keyrack call kms Sign --key-id $(cat p256) --message @letter --message-type DIGEST --signing-algorithm ECDSA_SHA_256"},
		{"a message that is no digest", "keyrack key create --spec ECC_NIST_EDWARDS25519 --usage SIGN_VERIFY >ed && keyrack call kms Sign --key-id $(cat ed) --message @letter --signing-algorithm ED25519_PH_SHA_512"},
		{"a message too long for Ed25519", "keyrack sign --key $(cat ed) --in /dev/zero"},
		{"no message for Ed25519", "keyrack sign --key $(cat ed) --in /dev/null"},
		{"no message for ML-DSA", "keyrack key create --spec ML_DSA_44 --usage SIGN_VERIFY >mldsa && keyrack sign --key $(cat mldsa) --in /dev/null"},
		{"a digest for ML-DSA", "keyrack call kms Sign --key-id $(cat mldsa) --message @letter --message-type DIGEST --signing-algorithm ML_DSA_SHAKE_256"},
		{"a mu of another length", "keyrack call kms Sign --key-id $(cat mldsa) --message @letter --message-type EXTERNAL_MU --signing-algorithm ML_DSA_SHAKE_256"},
		{"ML-DSA of a long file with another key", "keyrack sign --key $(cat p256) --algorithm ML_DSA_SHAKE_256 --in /dev/zero"},
		{"encapsulate without a key", "keyrack encapsulate"},
		{"decapsulate without a key", "keyrack decapsulate"},
		{"encapsulate to one place", "keyrack encapsulate --key k --out a --out-secret a"},
		{"encapsulate over a file", "keyrack encapsulate --key k --out letter"},
		{"encapsulate with a key that encrypts", "keyrack encapsulate --key $(cat key) --out ct"},
		{"decapsulate what is no ciphertext", "keyrack key create --spec ML_KEM_768 --usage ENCAPSULATE_DECAPSULATE >kem && keyrack decapsulate --key $(cat kem) --in letter --out secret"},
		{"decapsulate nothing", "keyrack decapsulate --key $(cat kem) --in /dev/null --out secret"},
		{"the public key of a key that has none", "keyrack key public $(cat key)"},
		{"more than an RSA key encrypts", "keyrack key create --spec RSA_2048 --usage ENCRYPT_DECRYPT >rsa && head -c 191 /dev/zero >long && keyrack encrypt --key $(cat rsa) --algorithm RSAES_OAEP_SHA_256 --in long"},
		{"a context with an RSA key", "keyrack encrypt --key $(cat rsa) --algorithm RSAES_OAEP_SHA_256 --context a=b --in letter"},
		{"an RSA key without its algorithm", "keyrack encrypt --key $(cat rsa) --in letter"},
		{"a ciphertext that is not the RSA key's", "keyrack decrypt --key $(cat rsa) --algorithm RSAES_OAEP_SHA_256 --in letter"},
		{"an RSA algorithm without a key, by call", "keyrack call kms Decrypt --ciphertext-blob @letter --encryption-algorithm RSAES_OAEP_SHA_256"},
		{"no public key to agree with", "keyrack derive --key k --peer /dev/null --out secret"},
		{"a public key that is too large", "keyrack derive --key k --peer /dev/zero --out secret"},
		{"a file that is no public key", "keyrack key create --spec ECC_NIST_P256 --usage KEY_AGREEMENT >agrees && keyrack derive --key $(cat agrees) --peer letter --out secret"},
		{"a private key where a public one is meant", "printf -- '-----BEGIN PRIVATE KEY-----\\nAAAA\\n-----END PRIVATE KEY-----\\n' >pem && keyrack derive --key k --peer pem --out secret"},
		{"a key pair of SM2", "keyrack datakey-pair --key $(cat key) --spec SM2 --out pair --out-public public"},
		{"a key pair over a file", "keyrack datakey-pair --key k --spec RSA_2048 --out letter --out-public public"},
		{"a usage that no such key has", "keyrack key create --spec ECC_NIST_P256 --usage ENCRYPT_DECRYPT"},
		{"a signature over a file", "keyrack sign --key k --in letter --out letter"},
		{"a plaintext over a file", "keyrack decrypt --in letter.enc --out letter"},
		{"import parameters over a file", "keyrack key import-parameters k --out-key letter --out-token token"},
		{"verify without a signature", "keyrack verify --key k --in letter"},
		{"verify-mac without a MAC", "keyrack verify-mac --key k --in letter"},
		{"a marker that is none", "keyrack call kms ListKeys --marker nonsense"},
		{"a marker of another list", "keyrack call kms ListAliases --marker nonsense"},
	})
	return rows
}

// foldersAndTokens is what a start may find.
func foldersAndTokens(t *testing.T) []errorRow {
	r := racktest.Start(t)
	dir := shortDir(t)
	env := append(environment(r), "HOME="+dir)
	prepare(t, dir, env, `
mkdir -m 700 nothing; mkdir open; chmod 777 open; touch file
keyrack init --dir rack; keyrack init --dir held --token soft:token; cp token whole; keyrack init --dir other
cp -r rack openkey; chmod 644 openkey/server.pem; cp -r rack nokey; echo nonsense > nokey/server.pem
cp -r rack store1; cp file store1/store.db; cp -r rack store2; truncate -s 8192 store2/store.db
cp -r rack store3; chmod 644 store3/store.db; cp -r rack store4; sed -i 's/format\x00\x00\x00\x01/format\x00\x00\x00\x07/g' store4/store.db
cp -r rack swapped; cp other/token swapped/token; cp -r rack gone; rm gone/token; cp -r rack part; truncate -s 100 part/token; cp -r rack public; chmod 644 public/token
chmod 700 store? openkey nokey swapped gone part public`)
	serve := func(flags string) string { return "exec keyrack serve --listen 127.0.0.1:0 " + flags }
	return provoke(t, dir, env, map[string]string{dir: "DIR", r.Dir: "DIR"}, []errorCase{
		{"serve: no such folder", serve("--dir missing")},
		{"serve: a folder without an appliance", serve("--dir nothing")},
		{"serve: a folder whose init was cut off", "mkdir -m 700 cut; : >cut/store.new; " + serve("--dir cut")},
		{"serve: a file for a folder", serve("--dir file")},
		{"init: a file for a folder", "keyrack init --dir file"},
		{"init: a folder where others may write", "keyrack init --dir open"},
		{"init: a folder with an appliance", "keyrack init --dir rack"},
		{"init: a path that is too long", "keyrack init --dir " + strings.Repeat("x", 100)},
		{"init: no room for the store", "ulimit -f 20; keyrack init --dir small"},
		{"serve: no room for the audit log", "ulimit -f 100; " + serve("--dir rack")},
		{"serve: no memory that can be locked", "ulimit -l 0; " + serve("--dir rack")},
		{"serve: an address of another machine", "exec keyrack serve --dir rack --listen 192.0.2.1:7250"},
		{"serve: a port that is taken", "exec keyrack serve --dir rack --listen $KEYRACK_ADDR"},
		{"serve: an address that is none", "exec keyrack serve --dir rack --listen nonsense"},
		{"serve: the token is elsewhere", serve("--dir held")},
		{"serve: the token is gone", serve("--dir gone")},
		{"serve: the token is another appliance's", serve("--dir swapped")},
		{"serve: the token is a part of one", serve("--dir part")},
		{"serve: others may read the token", serve("--dir public")},
		{"serve: others may read the server's key", serve("--dir openkey")},
		{"serve: the server's key is none", serve("--dir nokey")},
		{"serve: the store is empty", serve("--dir store1")},
		{"serve: the store is a part of one", serve("--dir store2")},
		{"serve: others may read the store", serve("--dir store3")},
		{"serve: the store is a later version's", serve("--dir store4")},
		{"a worker without serve", "exec keyrack worker --dir rack"},
		{"settings: a name that is none", "printf '[limits]\\nwindows = 3\\n' > s.toml; keyrack config --config s.toml"},
		{"settings: a value that is none", "printf '[limits]\\nwindow = \"many\"\\n' > s.toml; keyrack config --config s.toml"},
		{"settings: not TOML", "echo '[[' > s.toml; keyrack config --config s.toml"},
		{"settings: no such file", "keyrack config --config missing.toml"},
		{"settings: a variable that is wrong", "KEYRACK_WINDOW=many keyrack config"},
		{"settings: a flag that is wrong", "keyrack serve --dir rack --window 0"},
		{"config check: faults", "printf '[limits]\\nwindows = 3\\nwindow = 0\\n' > s.toml; keyrack config check s.toml"},
		{"config check: no file", "keyrack config check"},
		{"dev: the folder of a lasting appliance", "keyrack dev --dir rack -- true"},
		{"dev reset: the folder of a lasting appliance", "keyrack dev reset --dir rack"},
	})
}

// running starts serve in a folder and ends it with the test.
func running(t *testing.T, dir string, env []string, flags ...string) {
	t.Helper()
	if !slices.Contains(flags, "--listen") {
		flags = append(flags, "--listen", "127.0.0.1:0")
	}
	cmd := exec.Command("keyrack", append([]string{"serve"}, flags...)...)
	cmd.Dir, cmd.Env = dir, append(env, cmd.Environ()...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
}

// operators come at the wrong time, or name what is not there.
func operators(t *testing.T) []errorRow {
	r := racktest.Start(t)
	dir := shortDir(t)
	env := environment(r)
	prepare(t, dir, env, "keyrack init --dir rack; keyrack init --dir taken; keyrack init --dir old; cp old/store.db old.db")
	running(t, dir, nil, "--dir", "rack")
	running(t, dir, nil, "--dir", "taken", "--listen", r.Addr(), "--locked")
	prepare(t, dir, env, "keyrack status --wait 1m --dir rack; until keyrack status --dir taken; do sleep 0.1; done")
	names := map[string]string{dir: "DIR", r.Dir: "DIR"}
	rows := provoke(t, dir, env, names, []errorCase{
		{"init: the appliance runs", "keyrack init --dir rack"},
		{"serve: the appliance runs", "exec keyrack serve --dir rack"},
		{"principal add: no account yet", "keyrack principal add ann --out clients --dir rack"},
	})
	prepare(t, dir, env, "keyrack principal add ann --out clients --account 111122223333 --dir rack > ann.env; keyrack principal add bob --out clients --account 444455556666 --dir rack > bob.env")
	prepare(t, dir, env, "keyrack serve --dir old --listen 127.0.0.1:0 2>/dev/null & keyrack status --wait 1m --dir old; keyrack domain rotate --dir old; kill $!; wait; cp old.db old/store.db")
	return append(rows, provoke(t, dir, env, names, []errorCase{
		{"serve: the store is from before a rotation", "exec keyrack serve --dir old --listen 127.0.0.1:0"},
		{"principal add: more than one account", "keyrack principal add eve --out clients --dir rack"},
		{"principal add: the name is taken", "keyrack principal add ann --out other --account 111122223333 --dir rack"},
		{"principal add: the files are there", "keyrack principal add ann --out clients --account 111122223333 --dir rack"},
		{"principal add: the key is another's", "keyrack principal add eve --account 111122223333 --dir rack --key-hash $(keyrack principal list --dir rack | grep -o 'sha256:[0-9a-f]*' | head -n 1)"},
		{"principal add: no such folder", "keyrack principal add eve --out no/such --account 111122223333 --dir rack"},
		{"principal add: a name with other characters", "keyrack principal add 'a b' --out clients --account 111122223333 --dir rack"},
		{"principal add: a hash that is none", "keyrack principal add eve --key-hash 0000 --account 111122223333 --dir rack"},
		{"principal add: an account that is none", "keyrack principal add eve --out clients --account 12 --dir rack"},
		{"principal remove: nobody has the name", "keyrack principal remove eve --dir rack"},
		{"client init: the files are there", "keyrack client init ann --out clients"},
		{"client init: no such folder", "keyrack client init eve --out no/such"},
		{"a client that was removed", "keyrack principal remove bob --dir rack; . ./bob.env; keyrack key list"},
		{"status --wait: locked", "keyrack status --wait 1ms --dir taken"},
		{"check: locked", "keyrack check --dir taken"},
		{"domain rotate: locked", "keyrack domain rotate --dir taken"},
		{"principal list: locked", "keyrack principal list --dir taken"},
		{"clock accept: locked", "keyrack clock accept --dir taken"},
		{"domain shred: locked", "keyrack domain shred --dir taken"},
		{"unlock: the address is taken", "keyrack unlock --dir taken"},
		{"the note of the audit log was damaged", ". ./ann.env; keyrack key list && for f in clients/ann.log-*; do echo x > $f; done && ! keyrack key list 2> note && cat note >&2 && rm clients/ann.log-* && exit 1"},
		{"a key: the appliance is locked", "keyrack lock --dir rack; . ./ann.env; keyrack key list"},
	})...)
}

// auditLogs are copies in which something was changed.
func auditLogs(t *testing.T) []errorRow {
	dir := shortDir(t)
	prepare(t, dir, nil, `
keyrack init --dir rack --output json | sed -n 's/.*"AuditKey": "\(.*\)".*/\1/p' > vkey; keyrack init --dir other
keyrack serve --dir rack --listen 127.0.0.1:0 2>/dev/null & s=$!
keyrack serve --dir other --listen 127.0.0.1:0 2>/dev/null & o=$!
keyrack status --wait 1m --dir rack; keyrack status --wait 1m --dir other
keyrack principal add ann --account 111122223333 --out clients --dir rack; kill $s $o; wait
cp -r rack/audit good; cp -r good bit; cp -r good cut; cp -r good none; rm none/checkpoint; cp -r good part
f=$(ls bit/*.seg | head -n 1); for x in X Y; do printf $x | dd of="$f" bs=1 seek=4300 conv=notrunc 2>/dev/null; cmp -s "$f" "good/${f#bit/}" || break; done
f=$(ls part/*.seg | head -n 1); truncate -s 4096 "$f"
rm -r rack/audit; keyrack serve --dir rack --listen 127.0.0.1:0 2>/dev/null & s=$!
keyrack status --wait 1m --dir rack; for i in 1 2 3 4 5 6 7 8 9; do keyrack principal list --dir rack; done; kill $s; wait
for f in cut/*.seg; do : > "$f"; done; head -c 20000 /dev/zero > large`)
	verify := func(rest string) string { return `keyrack audit verify --key "$(cat vkey)" ` + rest }
	return provoke(t, dir, nil, map[string]string{dir: "DIR"}, []errorCase{
		{"no such folder", verify("missing")},
		{"a file for the folder", verify("vkey")},
		{"the appliance's folder for the log's in it", verify("other")},
		{"audit search for a name that nobody has", `keyrack audit search good --who nobody --key "$(cat vkey)"`},
		{"a key that is none", "keyrack audit verify --key nonsense good"},
		{"another appliance's log", verify("other/audit")},
		{"a record was changed", verify("bit")},
		{"a file was cut", verify("part")},
		{"the files are empty", verify("cut")},
		{"the checkpoint is gone", verify("none")},
		{"another log's checkpoint is expected", verify("good --expect other/audit/checkpoint")},
		{"the log was begun anew, and an older checkpoint is expected", verify("rack/audit --expect good/checkpoint")},
		{"what is expected is no checkpoint", verify("good --expect large")},
		{"what is expected is not there", verify("good --expect missing")},
	})
}

// damages are an edited store, and a disk without room.
func damages(t *testing.T) []errorRow {
	below := keystore.NewMemory()
	edited := racktest.Start(t, func(cfg *rack.Config) { cfg.Store = below })
	editedKey := filepath.Base(edited.CreateKey())
	damage(t, below)
	small := &fillable{Store: keystore.NewMemory()}
	full := racktest.Start(t, func(cfg *rack.Config) { cfg.Store = small })
	small.full.Store(true)
	broken := racktest.Start(t)
	broken.CreateKey()
	broken.Disk.Break(racktest.ErrNoSpace)
	var rows []errorRow
	for _, c := range []struct {
		r    *racktest.Rack
		what errorCase
	}{
		{edited, errorCase{"check: a record was edited", "keyrack check"}},
		{edited, errorCase{"a key whose material was edited", "echo x | keyrack encrypt --key " + editedKey}},
		{full, errorCase{"the store is full", "keyrack key create"}},
		{broken, errorCase{"the audit log's disk failed", "keyrack key list"}},
	} {
		rows = append(rows, provoke(t, c.r.Dir, environment(c.r), nil, []errorCase{c.what})...)
	}
	return rows
}

// fillable is a store whose disk can be full.
type fillable struct {
	keystore.Store
	full atomic.Bool
}

// Update refuses while the disk is full.
func (f *fillable) Update(ctx context.Context, change func(keystore.Tx) error) (keystore.Revision, error) {
	if f.full.Load() {
		return 0, keystore.ErrFull
	}
	return f.Store.Update(ctx, change)
}
