package main_test

import (
	"testing"
	"time"

	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
)

// lifeOfKeys is what rotation, deletion, imports and the clock refuse, in the order in which
// the time of the appliance passes.
func lifeOfKeys(t *testing.T) []errorRow {
	clk, pass, set := clock.NewTestWall(time.Now())
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.Clock = clk })
	dir := shortDir(t)
	env, names := environment(r), map[string]string{dir: "DIR", r.Dir: "DIR"}
	prepare(t, dir, env, `
echo hello > letter; keyrack key create > key; keyrack key create > off; keyrack key disable $(cat off)
keyrack key create --spec ECC_NIST_P256 --usage SIGN_VERIFY > p256; keyrack key create --spec RSA_2048 --usage ENCRYPT_DECRYPT > rsa
for k in ext ext2 empty; do keyrack key create --origin EXTERNAL > $k; done; keyrack key create --origin EXTERNAL --spec RSA_2048 --usage SIGN_VERIFY > extrsa
head -c 32 /dev/urandom > a.bin; head -c 32 /dev/urandom > b.bin; head -c 32 /dev/urandom > c.bin; head -c 512 /dev/urandom > noise
keyrack key import $(cat ext) --file a.bin --wrapping-key RSA_2048; keyrack key import $(cat ext2) --file a.bin --wrapping-key RSA_2048
wrap() { keyrack key import-parameters $1 --wrapping RSAES_OAEP_SHA_256 --wrapping-key RSA_2048 --out-key $2.pem --out-token $2.token
openssl pkeyutl -encrypt -pubin -inkey $2.pem -in a.bin -out $2.enc -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256; }
wrap $(cat ext2) used; keyrack key import $(cat ext2) --token used.token --encrypted used.enc; wrap $(cat ext) good; wrap $(cat ext2) late
keyrack key create --spec ECC_NIST_P256 --usage KEY_AGREEMENT > agrees; openssl ecparam -name secp384r1 -genkey -noout | openssl pkey -pubout > other.pem
for s in 512 768; do keyrack key create --spec ML_KEM_$s --usage ENCAPSULATE_DECAPSULATE > kem$s; done; keyrack encapsulate --key $(cat kem512) --out capsule --out-secret shared
keyrack key create > used; keyrack encrypt --key $(cat used) --in letter > letter.enc; keyrack key create > doomed; keyrack key schedule-deletion $(cat doomed)
keyrack key create > often; for i in $(seq 25); do keyrack key rotate $(cat often); done
keyrack key create > soon; keyrack key rotation enable $(cat soon) --days 90; head -c 191 /dev/zero > long`)
	rows := provoke(t, dir, env, names, []errorCase{
		{"rotate a key that signs", "keyrack key rotate $(cat p256)"},
		{"rotate a disabled key", "keyrack key rotate $(cat off)"},
		{"rotate a key that is pending deletion", "keyrack key rotate $(cat doomed)"},
		{"rotate a key for the 26th time", "keyrack key rotate $(cat often)"},
		{"rotate a key without new material that was imported", "keyrack key rotate $(cat ext)"},
		{"let a key with imported material be rotated", "keyrack key rotation enable $(cat ext)"},
		{"let a disabled key be rotated", "keyrack key rotation enable $(cat off)"},
		{"rotations of a key that signs", "keyrack key rotation list $(cat p256)"},
		{"a window that is too short", "keyrack key schedule-deletion $(cat key) --days 6"},
		{"a window that is too long", "keyrack call kms ScheduleKeyDeletion --key-id $(cat key) --pending-window-in-days 31"},
		{"give up a key that was used lately", "keyrack key schedule-deletion $(cat used)"},
		{"lately, without a number", "keyrack key schedule-deletion $(cat used) --used-within 0"},
		{"give up a key twice", "keyrack key schedule-deletion $(cat doomed)"},
		{"keep a key that nobody gave up", "keyrack key cancel-deletion $(cat key)"},
		{"use a key that is pending deletion", "keyrack encrypt --key $(cat doomed) --in letter"},
		{"enable a key that is pending deletion", "keyrack key enable $(cat doomed)"},
		{"use a key that is pending import", "keyrack encrypt --key $(cat empty) --in letter"},
		{"import: a token that was used", "keyrack key import $(cat ext2) --token used.token --encrypted used.enc"},
		{"import: another key's token", "keyrack key import $(cat empty) --token good.token --encrypted good.enc"},
		{"import: what does not decrypt", "keyrack key import $(cat ext) --token good.token --encrypted noise"},
		{"import: an end that is past", "keyrack key import $(cat ext) --file a.bin --wrapping-key RSA_2048 --expires 2020-01-01T00:00:00Z"},
		{"import: an end that is too far", "keyrack key import $(cat ext) --file a.bin --wrapping-key RSA_2048 --expires 400d"},
		{"import: new material that is not new", "keyrack key import $(cat ext) --file a.bin --wrapping-key RSA_2048 --new"},
		{"import: new material while other waits", "keyrack key import $(cat ext) --file b.bin --wrapping-key RSA_2048 --new >id && keyrack key import $(cat ext) --file c.bin --wrapping-key RSA_2048 --new"},
		{"import: into a key that is pending deletion", "keyrack key schedule-deletion $(cat ext) >date && keyrack key import $(cat ext) --file a.bin --wrapping-key RSA_2048"},
		{"import: an RSA key by OAEP alone", "keyrack key import-parameters $(cat extrsa) --wrapping RSAES_OAEP_SHA_256 --out-key x.pem --out-token x"},
		{"import parameters of a key that makes its own material", "keyrack key import-parameters $(cat key) --out-key x.pem --out-token x"},
		{"delete material that was not imported", "keyrack key delete-material $(cat key)"},
		{"delete material that is not there", "keyrack key delete-material $(cat ext2) --material $(printf %064d 0)"},
		{"a peer's key of another curve", "keyrack derive --key $(cat agrees) --peer other.pem --out secret"},
		{"a ciphertext of another key of ML-KEM", "keyrack decapsulate --key $(cat kem768) --in capsule --out secret"},
		{"a key pair under an RSA key", "keyrack datakey-pair --key $(cat rsa) --spec ECC_NIST_P256 --out pair --out-public public"},
		{"re-encrypt to an RSA key with a context", "keyrack re-encrypt --key $(cat rsa) --algorithm RSAES_OAEP_SHA_256 --context a=b --in letter.enc"},
		{"a primary region of a key that has one region", "keyrack call kms UpdatePrimaryRegion --key-id $(cat key) --primary-region rack-2"},
	})
	pass(25 * time.Hour)
	rows = append(rows, provoke(t, dir, env, names, []errorCase{{"import: a token of the day before", "keyrack key import $(cat ext2) --token late.token --encrypted late.enc"}})...)
	pass(89*24*time.Hour - 75*time.Minute)
	dueDone(t, r, clk.Now())
	rows = append(rows, provoke(t, dir, env, names, []errorCase{{"rotate a key that is about to be rotated", "keyrack key rotate $(cat soon)"}})...)
	prepare(t, dir, env, "keyrack key schedule-deletion $(cat key) --force")
	set(clk.Wall().Add(60 * 24 * time.Hour))
	rows = append(rows, provoke(t, dir, env, names, []errorCase{{"clock accept: a key would be destroyed", "keyrack clock accept"}})...)
	set(clk.Wall().Add(-61 * 24 * time.Hour))
	return append(rows, provoke(t, dir, env, names, []errorCase{
		{"clock accept: the clock is behind", "keyrack clock accept"},
	})...)
}

// dueDone waits until all that is due at a time is done.
func dueDone(t *testing.T, r *racktest.Rack, now time.Time) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(60 * time.Second); ; <-poll.C {
		left, err := r.KMS().DueUntil(t.Context(), now)
		if err == nil && len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("what is due is not done: %q, %v", left, err)
		}
		r.KMS().WakeDue()
	}
}
