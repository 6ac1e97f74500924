package soft

// Image returns the token's bytes in locked memory, to see that they are wiped.
func (t *Token) Image() []byte { return t.image.bytes() }
