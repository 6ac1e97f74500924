package pq

// UnpackHints reports whether the last bytes of a signature of ML-DSA are an encoding of hints.
func UnpackHints(s Set, y []byte) bool {
	_, ok := shapes[s].unpackHints(y)
	return ok
}

// UnpackZ reports whether these bytes of a signature of ML-DSA are a z within its bound.
func UnpackZ(s Set, b []byte) bool {
	_, ok := shapes[s].unpackZ(b)
	return ok
}
