package main_test

import (
	"path/filepath"
	"testing"
)

// pkcs11Tokens are what can be wrong with a token behind a vendor's library.
func pkcs11Tokens(t *testing.T) []errorRow {
	dir := shortDir(t)
	env := []string{"HOME=" + dir, "SOFTHSM2_CONF=" + dir + "/softhsm2.conf"}
	const library = "/usr/lib/softhsm/libsofthsm2.so"
	prepare(t, dir, env, `
mkdir tokens none; printf '0815\n' >pin; printf '4711\n' >wrong; cp pin public; cp pin short; echo 1 >short; chmod 600 pin wrong short; chmod 644 public
for d in tokens none; do printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' $PWD/$d >$d.conf; done
mv tokens.conf softhsm2.conf
softhsm2-util --init-token --free --label kr --so-pin so-pin --pin 0815 >log
keyrack init --dir rack --token "pkcs11:module=`+library+`;token=kr;pin-file=$PWD/pin" >>log 2>&1`)
	serve := func(attributes string) string {
		return "exec keyrack serve --listen 127.0.0.1:0 --dir rack --token \"pkcs11:" + attributes + "\""
	}
	token := "module=" + library + ";token=kr"
	real, err := filepath.EvalSymlinks(library)
	if err != nil {
		t.Fatal(err)
	}
	return provoke(t, dir, env, map[string]string{dir: "DIR", real: "MODULE"}, []errorCase{
		{"no module is named", serve("token=kr")},
		{"the PIN is on the command line", serve(token + ";pin-value=0815")},
		{"an attribute that is none", serve(token + ";slot=0")},
		{"the module is not there", serve("module=/usr/lib/none.so;token=kr;pin-file=$PWD/pin")},
		{"the module is no library", serve("module=$PWD/pin;token=kr;pin-file=$PWD/pin")},
		{"no token", "SOFTHSM2_CONF=none.conf " + serve(token+";pin-file=$PWD/pin")},
		{"no PIN", serve(token)},
		{"the PIN's file is not there", serve(token + ";pin-file=$PWD/missing")},
		{"others may read the PIN", serve(token + ";pin-file=$PWD/public")},
		{"the variable with the PIN is not set", serve(token + ";pin-env=KR_PIN")},
		{"the credential with the PIN outside of a unit", serve(token + ";pin-credential=kr-pin")},
		{"a PIN that can be none", serve(token + ";pin-file=$PWD/short")},
		{"a wrong PIN", serve(token + ";pin-file=$PWD/wrong")},
		{"a wrong PIN again", serve(token + ";pin-file=$PWD/wrong")},
		{"the process of a token without an appliance", "keyrack token-process rack 'token=kr'"},
	})
}
