package main

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// flatten turns a JSON object into rows of a path and a value, for people:
// KeyMetadata.KeyId, Records[0]. The order is the object's.
func flatten(object json.RawMessage) ([][2]string, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	var rows [][2]string
	err := flattenValue(d, "", &rows)
	return rows, err
}

// flattenValue reads one value and appends its rows. It is read by token, because
// a Go map would lose the order of the members.
func flattenValue(d *json.Decoder, path string, rows *[][2]string) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, composite := t.(json.Delim)
	if !composite {
		*rows = append(*rows, [2]string{path, fmt.Sprint(t)})
		return nil
	}
	for i := 0; d.More(); i++ {
		at := fmt.Sprintf("%s[%d]", path, i)
		if open == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			if at = fmt.Sprint(name); path != "" {
				at = path + "." + at
			}
		}
		if err := flattenValue(d, at, rows); err != nil {
			return err
		}
	}
	_, err = d.Token() // what closes it
	return err
}
