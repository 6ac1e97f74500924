package cbor

// Library decodes b into any and encodes that again with the library's two
// modes alone, without our own check of the form.
func Library(b []byte) (v any, again []byte, err error) {
	enc, dec := modes()
	if err = dec.Unmarshal(b, &v); err == nil {
		again, err = enc.Marshal(v)
	}
	return v, again, err
}
