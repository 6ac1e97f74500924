package domain

// Key returns the domain key itself, to see that it is wiped.
func (k *Keyring) Key() []byte { return k.key.Bytes() }
