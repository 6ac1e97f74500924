package protocol_test

import (
	"fmt"
	"strings"

	"github.com/keyrack/keyrack/internal/cbor"
)

// diagnose writes CBOR in diagnostic notation (RFC 8949 §8), which people read
// and testdata/check.py computes on its own.
func diagnose(b []byte) string {
	r := cbor.NewReader(b)
	text, err := diagnoseItem(&r)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		panic(err)
	}
	return text
}

func diagnoseItem(r *cbor.Reader) (string, error) {
	rest := r.Rest()
	if len(rest) == 0 {
		rest = []byte{0} // Uint says what is wrong
	}
	switch rest[0] >> 5 {
	case 0:
		n, err := r.Uint()
		return fmt.Sprint(n), err
	case 1:
		n, err := r.Int()
		return fmt.Sprint(n), err
	case 2:
		b, err := r.Bytes()
		return fmt.Sprintf("h'%x'", b), err
	case 3:
		s, err := r.Text()
		return jsonText(string(s)), err
	case 4:
		n, err := r.Array()
		return diagnoseItems(r, "[]", n, 1, err)
	case 5:
		n, err := r.Map()
		return diagnoseItems(r, "{}", n, 2, err)
	}
	b, err := r.Bool()
	return fmt.Sprint(b), err
}

// diagnoseItems writes n groups of items between two brackets.
func diagnoseItems(r *cbor.Reader, brackets string, n, each int, err error) (string, error) {
	var groups []string
	for ; n > 0 && err == nil; n-- {
		var group []string
		for range each {
			var item string
			if item, err = diagnoseItem(r); err != nil {
				return "", err
			}
			group = append(group, item)
		}
		groups = append(groups, strings.Join(group, ": "))
	}
	return brackets[:1] + strings.Join(groups, ", ") + brackets[1:], err
}
