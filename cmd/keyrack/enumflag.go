package main

import (
	"flag"
	"fmt"
	"slices"
	"strings"

	"github.com/keyrack/keyrack/api"
)

// enumFlag is a flag whose value is one of a closed list of AWS's, in any case and
// with dashes for underscores: --spec hmac-256.
type enumFlag struct {
	names api.Names
	set   func(uint8)
}

// declareEnum declares such a flag, which sets *to.
func declareEnum[E interface {
	~uint8
	api.Enum
}](fs *flag.FlagSet, to *E, name, usage string) {
	fs.Var(&enumFlag{(*to).Names(), func(v uint8) { *to = E(v) }}, name, usage)
}

// String is part of flag.Value; there is no default to show.
func (f *enumFlag) String() string { return "" }

// Set takes a name of the list.
func (f *enumFlag) Set(s string) error {
	v := f.names.Value(strings.ReplaceAll(strings.ToUpper(s), "-", "_"))
	if v == 0 {
		return fmt.Errorf("want one of %s", strings.Join(f.offered(), ", "))
	}
	f.set(v)
	return nil
}

// notHere are AWS's names of what no appliance does: they are understood, so that it can
// say so itself, and not offered.
var notHere = []string{"SM2", "SM2PKE", "SM2DSA", "RSAES_PKCS1_V1_5", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"}

// offered returns the names of the list that an appliance takes.
func (f *enumFlag) offered() []string { return offeredOf(f.names) }

// offeredOf returns the names of an enum that an appliance takes.
func offeredOf(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(notHere, name) })
}

// namesText lists the values of an enum for people, those that are always refused apart.
func namesText(all []string) string {
	taken := offeredOf(all)
	text := strings.Join(taken, ", ")
	if len(taken) < len(all) {
		refused := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(taken, name) })
		text += "; always refused: " + strings.Join(refused, ", ")
	}
	return text
}
