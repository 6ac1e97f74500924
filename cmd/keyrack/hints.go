package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/pin"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/settings"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
)

// kindHints says what to do about each kind of error that an appliance answers.
var kindHints = map[api.Kind]string{
	api.KindInternal:                "the appliance's own log has the cause under the time of this call",
	api.KindValidation:              "correct the member that the message names; keyrack help call SERVICE OPERATION lists the members",
	api.KindSerialization:           "client and appliance do not understand each other: compare keyrack version with the Version of keyrack status",
	api.KindUnknownOperation:        "the appliance's version does not have this operation: compare keyrack version with the Version of keyrack status",
	api.KindAccessDenied:            "check the key, and that KEYRACK_CERT is the client that may use it; operations of keyrack itself are for the operator's socket only",
	api.KindThrottling:              "the appliance is busy: wait a moment and call again, or send less at a time",
	api.KindUnrecognizedClient:      "KEYRACK_CERT and KEYRACK_KEY must be a client that this appliance knows, with a certificate that is not over: keyrack principal list shows who is registered",
	api.KindUnavailable:             "keyrack status on the appliance says what is wrong; call again when it is put right",
	api.KindNotFound:                "check the key id or the alias: keyrack key list and keyrack alias list print those of your account",
	api.KindDisabled:                "use another key, or enable this one first: keyrack key enable KEY",
	api.KindInvalidState:            "use a key whose state is Enabled: keyrack key describe KEY prints it; keyrack key cancel-deletion KEY keeps one that is pending deletion",
	api.KindInvalidKeyUsage:         "use a key whose KeyUsage and KeySpec offer this operation and algorithm; keyrack key describe shows the algorithms, for --algorithm",
	api.KindInvalidCiphertext:       "give the file exactly as encrypt or encapsulate wrote it, and every --context that encrypt was given (--from-context of re-encrypt); with an RSA key, its --key and --algorithm",
	api.KindIncorrectKey:            "leave --key out, or --from-key of re-encrypt: a ciphertext names its own key",
	api.KindInvalidArn:              "correct the ARN, or give the key id or the alias alone: keyrack key list and keyrack alias list print those of your account",
	api.KindInvalidGrantToken:       "leave the grant tokens out",
	api.KindDryRun:                  "leave the dry run out to do it",
	api.KindUnsupportedOperation:    "the message says what cannot be done, or not with this key: leave that member out, or use another operation or key",
	api.KindMalformedPolicyDocument: "leave the policy out to get the default key policy",
	api.KindTag:                     "give at most 50 tags, each name once, and none that begins with aws:",
	api.KindLimitExceeded:           "the message says which limit it is: make it smaller, or remove what is no longer needed",
	api.KindKeyUnavailable:          "the token that holds the key does not answer: keyrack status on the appliance says more",
	api.KindRequestTooLarge:         "send less in one request",
	api.KindAlreadyExists:           "choose another name, or remove what has it first",
	api.KindNotAuthorized:           "choose a name that does not begin with alias/aws/",
	api.KindInvalidMarker:           "begin the list anew, without a marker",
	api.KindInvalidMac:              "give the file exactly as it was, the MAC exactly as keyrack mac wrote it, and the key and algorithm that made it",
	api.KindInvalidSignature:        "give the file exactly as it was, the signature exactly as keyrack sign wrote it, and the key and algorithm that made it",
	api.KindConflict:                "the key is about to be rotated on its own: keyrack key rotation status KEY says when; wait until then, or turn it off with keyrack key rotation disable KEY",
	api.KindInvalidImportToken:      "get new parameters, which end all tokens of before, and encrypt the key material anew for their public key: keyrack key import-parameters KEY; keyrack key import KEY --file F does it all in one step",
	api.KindExpiredImportToken:      "import parameters are good for 24 hours: get new ones with keyrack key import-parameters KEY, and encrypt the key material anew for their public key",
	api.KindIncorrectKeyMaterial:    "import the key material that the key had, or give --new for the next material of a symmetric key; any other key takes no other material: make a new one with keyrack key create --origin EXTERNAL",
	api.KindCustomKeyStoreNotFound:  "leave the custom key store out: this appliance has none",
	api.KindRequestTimeout:          "send whole requests without pauses, and check the network",
}

// reasonHints says what to do where an appliance gives a reason beside the kind.
var reasonHints = map[string]string{
	"locked":        "run keyrack unlock on the appliance",
	"locking":       "wait until keyrack status says LOCKED, then keyrack unlock",
	"rotating":      "keyrack status says whether records are still being wrapped anew: rotate when that is over",
	"slot":          "give keyrack serve the token that keyrack init was given, and the newest store.db: this token ends what was before a rotation",
	"token":         "see that the token is there and works, then start the appliance anew",
	"principal":     "keyrack principal list shows who is registered",
	"address":       "free the address that keyrack serve was given and unlock again, or start it with another --listen",
	"space":         "make room on the disk of the appliance's data folder and of its token",
	"store":         "make room on the disk of the appliance's data folder; reads go on meanwhile",
	"store-damaged": "run keyrack check on the appliance, and keep a copy of its data folder before anything in it is changed",
}

// wordHints says more than kindHints where the words of an error, most of them AWS's
// own, tell apart what one kind stands for.
var wordHints = []struct {
	kind        api.Kind
	words, hint string
}{
	{api.KindInvalidState, "is not pending deletion", "there is nothing to cancel: keyrack key describe KEY prints the state of a key"},
	{api.KindInvalidState, "is pending deletion", "use another key, or keep this one: keyrack key cancel-deletion KEY, and then keyrack key enable KEY"},
	{api.KindInvalidState, "is pending import", "bring its key material: keyrack key import KEY --file F; of a key with several, keyrack key rotation list KEY --all shows which one is missing"},
	{api.KindInvalidState, "waits for a rotation", "bring the next key material, and rotate then: keyrack key import KEY --file F --new"},
	{api.KindInvalidState, "waits for its rotation", "keyrack key rotate KEY takes the material that waits, keyrack key delete-material KEY --material ID drops it"},
	{api.KindInvalidState, "time does not go back", "set the machine's clock, by NTP say: until it has come so far the appliance counts on by itself"},
	{api.KindAlreadyExists, "Unable to replicate", "use the key as it is: this appliance is one region, and the key is in it"},
	{api.KindNotFound, "not an alias", "give the key's id: keyrack key describe ALIAS prints it; the commands of keyrack key look it up themselves"},
	{api.KindValidation, "must be in the future", "give an end to come, within 365 days: keyrack key import KEY --file F --expires 90d"},
	{api.KindValidation, "'keyMaterialId'", "the id of a material is 64 hex digits: keyrack key rotation list KEY --all prints those of a key"},
	{api.KindValidation, "'keyMaterialDescription'", "describe it in at most 256 letters, digits, spaces and : / _ . -"},
	{api.KindValidation, "Digest is invalid length", "give the digest itself, 32 bytes for SHA_256, 48 for 384, 64 for 512; keyrack sign makes it of a file"},
	{api.KindValidation, "Message type", "leave the message type out, or choose an algorithm that takes it; keyrack sign chooses both by the key"},
	{api.KindValidation, "is no public key that", "give the other side's public key, in PEM or DER, on the curve that keyrack key describe KEY shows; openssl pkey -pubin -in FILE -noout -text shows what the file has"},
	{api.KindValidation, "specify a KeyUsage", "give --usage: SIGN_VERIFY, ENCRYPT_DECRYPT, KEY_AGREEMENT, ENCAPSULATE_DECAPSULATE or GENERATE_VERIFY_MAC; docs/KEYS.md says which fits which spec"},
	{api.KindValidation, "not compatible with KeySpec", "give another --usage or --spec: SYMMETRIC_DEFAULT encrypts, HMAC makes MACs, RSA encrypts or signs, ECC signs or agrees, ML_DSA signs, ML_KEM encapsulates"},
	{api.KindUnsupportedOperation, "only an asymmetric key", "use a key of RSA, ECC, ML_DSA or ML_KEM: keyrack key describe KEY shows the spec of one"},
	{api.KindValidation, "a key can be deleted after", "give a window of 7 to 30 days"},
	{api.KindInvalidCiphertext, "the ciphertext has", "give the file exactly as encapsulate wrote it, and the key that it was made for"},
	{api.KindInvalidCiphertext, "RSA key", "give the file exactly as it was encrypted, and the --key and --algorithm that it was encrypted for (--from-key and --from-algorithm of re-encrypt); a file of a symmetric key is decrypted without them"},
	{api.KindUnsupportedOperation, "KeySpec SM2", "SM2 is for AWS's regions in China: use ECC_NIST_P256 to sign or agree, SYMMETRIC_DEFAULT or RSA_3072 to encrypt"},
	{api.KindUnsupportedOperation, "KeyPairSpec SM2", "SM2 is for AWS's regions in China: use ECC_NIST_P256 or RSA_3072"},
	{api.KindUnsupportedOperation, "SM2", "SM2 is for AWS's regions in China: use what the message names, or leave the flag out"},
	{api.KindInvalidKeyUsage, "SM2", "SM2 is for AWS's regions in China, and no key is of it here: keyrack key describe KEY shows the algorithms of a key"},
	{api.KindUnsupportedOperation, "cannot hold the private key", "leave --wrapping and --wrapping-key out: what they are then holds the material of every kind"},
	{api.KindInvalidCiphertext, "encrypted key material", "keyrack help key import-parameters says how to encrypt it; keyrack key import KEY --file F does that, too"},
	{api.KindNotFound, "has no key material", "keyrack key rotation list KEY --all prints the ids of a key's materials"},
	{api.KindLimitExceeded, "rotated on demand", "keyrack key rotation enable KEY rotates it by itself, as often as it lives; or make a new key with keyrack key create"},
	{api.KindUnsupportedOperation, "origin is EXTERNAL", "imported key material is rotated by hand: keyrack key import KEY --file F --new, and then keyrack key rotate KEY"},
	{api.KindUnsupportedOperation, "origin is AWS_KMS", "use a key whose material is imported: keyrack key create --origin EXTERNAL makes one"},
	{api.KindUnsupportedOperation, "key spec is", "only keys of SYMMETRIC_DEFAULT are rotated: in place of another make a new key, and give it the alias with keyrack alias update"},
}

// hints says what to do about errors that no appliance answered. The first that
// matches counts, so the more specific stand first: a socket that is not there is
// a file that is not there, too.
var hints = []struct {
	of   func(error) bool
	hint string
}{
	// Between here and the appliance.
	{is(client.ErrForked), "trust no answer of this appliance: keep its data folder as evidence, and see with keyrack audit verify --expect what was changed"},
	{is(client.ErrUnsigned), "KEYRACK_AUDIT_KEY must be the audit key that keyrack init has printed for this appliance: else it is another appliance's log"},
	{is(context.DeadlineExceeded), "nothing answered in time: check KEYRACK_ADDR and the network between here and the appliance"},
	{is(client.ErrLost), "see keyrack audit tail for whether the call was carried out before calling again"},
	{dialing(syscall.EACCES), "the socket is for root and for the user that the appliance runs as"},
	{dialing(syscall.ENOENT), "no appliance made this socket: start it with keyrack serve, or correct --dir, --socket or KEYRACK_SOCKET"},
	{dialing(syscall.ENOTDIR), "give --dir the data folder of an appliance: a Unix socket is in it"},
	{longSocket, "give a shorter path: that of a Unix socket has at most 107 bytes"},
	{dialing(syscall.ECONNREFUSED), "no appliance listens there: start or unlock it, or correct KEYRACK_ADDR or KEYRACK_SOCKET"},
	{is(io.EOF), "the appliance ended the connection: see whether it is going down, and whether KEYRACK_ADDR is its port"},
	{is(syscall.ECONNRESET), "the appliance ended the connection: see whether it is going down, and whether KEYRACK_ADDR is its port"},
	{dialing(nil), "check KEYRACK_ADDR (host:port) and the network between here and the appliance"},
	{as[tls.RecordHeaderError], "KEYRACK_ADDR answers, but not with TLS: it must be the port of the appliance's native protocol"},
	{as[tls.AlertError], "KEYRACK_ADDR must be the port of the native protocol, and KEYRACK_CERT a client that the appliance knows"},
	// The audit log's files and keys.
	{is(tlog.ErrKey), "the key is one line, name+hash+base64, as keyrack init has printed it, and keyrack dev prints it (KEYRACK_AUDIT_KEY)"},
	{is(audit.ErrForked), "the log was rewritten or it is another log: keep its folder as evidence, and trust the copies of it made before"},
	{is(audit.ErrTruncated), "records that were signed are missing at the end: look for them in a backup of the folder"},
	{is(audit.ErrDamaged), "trust no record from that place on: keep the folder as evidence, and compare it with a backup"},
	{is(audit.ErrCheckpoint), "the folder and the key must be of one appliance, which keeps its newest checkpoint in the folder: what is gone from there may be in a backup"},
	// The settings file.
	{is(settings.ErrUnsafe), "chmod go-w the file, and let it belong to root or to the user that runs keyrack"},
	{as[settings.Faults], faultsHint},
	// A data folder, and what an appliance needs to start.
	{is(securemem.ErrNotLocked), "let the process lock memory: LimitMEMLOCK=64M in a systemd unit, ulimit -l in a shell"},
	{is(securemem.ErrFull), "let the process lock more memory: LimitMEMLOCK=64M in a systemd unit, ulimit -l in a shell"},
	{is(rack.ErrCutOff), "run keyrack init once more, with the same --dir and --token: it destroys what that attempt left in the token, and begins anew"},
	{is(rack.ErrOtherToken), "run keyrack init with --token as it was then; where that token is gone for good, or may keep the keys, remove the file that is named"},
	{is(rack.ErrNone), "keyrack init --dir DIR makes an appliance there; see that it is the folder you mean, and that its disk is mounted"},
	{is(rack.ErrExists), "keyrack serve --dir DIR runs it; for another appliance choose another folder"},
	{is(rack.ErrInUse), "stop the keyrack serve or keyrack dev that the process belongs to, or choose another folder"},
	{is(rack.ErrStoreInUse), "end the process that has the store open"},
	{is(rack.ErrOpenFolder), "chmod 700 the folder and see that nobody has put anything into it, or use one of your own"},
	{is(rack.ErrLongPath), "choose a shorter path for --dir: a Unix socket is made there, whose path has at most 107 bytes"},
	{is(rack.ErrNotDev), "give the folder of keyrack dev, or an empty one; keyrack serve runs what keyrack init has made, and only you remove it"},
	{is(rack.ErrDev), "choose another folder: keyrack dev reset removes this one with all that is in it"},
	{is(rack.ErrTokenUnsafe), "make the file that --token names an ordinary one of mode 0600, of the user that runs keyrack"},
	{is(rack.ErrTokenDamaged), "give the file that --token named at keyrack init, or its copy from a backup"},
	{is(rack.ErrAsksPIN), "with pin-ask=yes the PIN is given to keyrack init and keyrack unlock alone; give pin-file, pin-env or pin-credential for others"},
	{is(pin.ErrUnreadable), "put it on one line of an ordinary file of mode 0600, of the user that runs keyrack, and name that by pin-file, or owner-file; or use an environment variable or a systemd credential"},
	{is(rack.ErrTPMAway), "see that the TPM is there and the user may use it (ls -l /dev/tpmrm0, group tss); --token tpm2:path=PATH names another"},
	{is(rack.ErrTPMSilent), "look for the TPM in the kernel's log; switching the machine off and on brings back a chip that hangs"},
	{is(rack.ErrTPMGarbage), "see that --token names a TPM that nothing else uses; if it does, something disturbs the wires to it, or somebody"},
	{is(rack.ErrTPMFailed), "switch the machine off and on; a TPM whose self-test fails again is broken"},
	{is(rack.ErrTPMBusy), "use the kernel's resource manager, --token tpm2:path=/dev/tpmrm0, or end the other programs that use the TPM"},
	{is(rack.ErrTPMOwner), "give the TPM owner's authorization value: --token tpm2:owner-file=FILE"},
	{is(rack.ErrTPMLockout), "wait until the TPM gives tries back, or clear its lockout as its owner (tpm2_dictionarylockout -c); see that the PIN is right first"},
	{is(rack.ErrTPMPIN), "give the PIN that keyrack init was given: --token tpm2:pin-file=FILE; each start tries it once"},
	{is(rack.ErrTPMFull), "delete counters that no appliance needs any more (tpm2_nvundefine INDEX): whose counter is deleted, that key is gone for ever"},
	{is(rack.ErrTPMReplaced), "put the TPM back that was there; what only a TPM that was cleared could open is lost"},
	{is(rack.ErrServerKey), "restore server.pem from a backup as an ordinary file of mode 0600, of the user that runs keyrack: clients know the appliance by its key"},
	{is(rack.ErrTokenNotBuilt), "use a keyrack that was built with cgo, by make build; the one of make static has TPMs and soft tokens only"},
	{is(rack.ErrTokenModule), "give module= the path of the vendor's PKCS#11 library for this machine, such as /usr/lib/softhsm/libsofthsm2.so"},
	{is(rack.ErrTokenMissing), "pkcs11-tool --module PATH --list-token-slots shows what the module has; --init-token and --init-pin of that tool make a new token ready"},
	{is(rack.ErrTokenUnfit), "use a token that has HMAC-SHA-256 and ECDSA on P-256, is not write-protected and passes its own test"},
	{is(rack.ErrTokenPINTries), "log in once with the right PIN by the token's own tool, which ends the count; with final-try=yes behind --token it is tried all the same"},
	{is(rack.ErrTokenPINLocked), "have the token's security officer set a new PIN: pkcs11-tool --module PATH --login --login-type so --init-pin"},
	{is(rack.ErrTokenPIN), "correct the PIN where pin-file, pin-env or pin-credential has it; no PIN that was refused is tried twice"},
	{is(rack.ErrTokenFull), "remove from the token what nothing uses: pkcs11-tool --module PATH --login --list-objects shows it"},
	{is(rack.ErrTokenAttributes), "somebody else has made or changed this key: trust neither it nor who has the PIN, and make an appliance with another token"},
	{is(rack.ErrTokenTwice), "somebody has put a second key beside the appliance's: trust nobody who has the PIN, and make an appliance with another token"},
	{is(rack.ErrTokenReply), "the token, or its library, does not work as PKCS#11 says: ask its vendor for a newer one"},
	{is(rack.ErrTokenGone), "see that the token is plugged in and that its service runs; nothing is lost, and the appliance goes on when it is back"},
	{is(rack.ErrTokenSilent), "see that the token is plugged in and that its service runs; nothing is lost, and the appliance goes on when it is back"},
	{is(rack.ErrTokenDied), "the log above may say why; if it comes again, ask the vendor for a newer library"},
	{is(rack.ErrNoToken), "give --token as keyrack init was given it: without that token no key can be opened"},
	{is(domain.ErrNoSlot), "give --token as keyrack init was given it, and the newest store.db: this token ends what was before a rotation"},
	{is(domain.ErrUnfinished), "run keyrack init on an empty store: the one that was cut off holds nothing"},
	{is(hsm.ErrBlob), "give --token as keyrack init was given it: this one is another"},
	{is(rack.ErrStoreUnsafe), "make store.db an ordinary file of mode 0600, of the user that runs keyrack"},
	{is(rack.ErrStoreFormat), "run the version of keyrack that made the store, or restore store.db from a backup"},
	{is(rack.ErrStoreDamaged), "keep a copy of the folder, and restore it from a backup"},
	{is(keystore.ErrDamaged), "keep a copy of the folder as evidence, and restore it from a backup"},
	{is(syscall.EADDRINUSE), "another program listens there: end it, or give another port with --listen"},
	{is(syscall.EADDRNOTAVAIL), "give an address of this machine with --listen"},
	{listening(syscall.EACCES), "give a port above 1023 with --listen, or allow the service CAP_NET_BIND_SERVICE"},
	{listening(nil), "give an address and a port of this machine with --listen"},
	// Any other file.
	{is(syscall.ENOSPC), "make room on that disk, or write to another place"},
	{is(syscall.EDQUOT), "make room: the user's quota on that disk is used up"},
	{is(syscall.EFBIG), "make room: a limit on the size of files (ulimit -f) or the disk allows no more"},
	{is(syscall.EROFS), "mount that disk so that it can be written, or choose another place"},
	{is(fs.ErrPermission), "choose a file that you may use, or run as the user who may"},
	{is(fs.ErrExist), "choose another name or folder, or move away what is there: it is never overwritten"},
	{is(fs.ErrNotExist), "check the path; a folder that is to hold a file must exist"},
	{as[*fs.PathError], "check the path and what it is"},
}

// otherHint is for errors that nothing above knows.
const otherHint = "keyrack help explains the commands"

// is matches errors that wrap target.
func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// as matches errors that wrap an E.
func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// dialing matches errors of making a connection, all of them if cause is nil.
func dialing(cause error) func(error) bool { return network("dial", cause) }

// listening is dialing for listeners.
func listening(cause error) func(error) bool { return network("listen", cause) }

// longSocket matches a Unix socket's path that is too long for one.
func longSocket(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Net == "unix" && errors.Is(err, syscall.EINVAL)
}

func network(op string, cause error) func(error) bool {
	return func(err error) bool {
		e, ok := errors.AsType[*net.OpError](err)
		return ok && e.Op == op && (cause == nil || errors.Is(err, cause))
	}
}

// hintFor returns what to do about err: never empty.
func hintFor(err error) string {
	if p, ok := errors.AsType[*problem](err); ok {
		return p.hint
	}
	if hint, ok := knownHint(err); ok {
		return hint
	}
	return otherHint
}

// knownHint returns the hint of the tables above, if they have one.
func knownHint(err error) (string, bool) {
	if e, ok := errors.AsType[*api.Error](err); ok {
		if hint, ok := reasonHints[e.Reason]; ok {
			return hint, true
		}
		for _, h := range wordHints {
			if e.Kind == h.kind && strings.Contains(e.Message, h.words) {
				return h.hint, true
			}
		}
		hint, ok := kindHints[e.Kind]
		return hint, ok
	}
	for _, h := range hints {
		if h.of(err) {
			return h.hint, true
		}
	}
	return "", false
}
