package seal

// CounterMode is the KDF over a fixed input of any shape, for known answers that have another one.
func CounterMode(out, key, fixed []byte) {
	counterMode(out, key, append(make([]byte, 4, 4+len(fixed)), fixed...))
}

// NewAEAD is what messages and records are sealed with.
var NewAEAD = newAEAD

// Spend uses up messages and bytes of k as so many Seals would.
func (k *MessageKey) Spend(messages, bytes uint64) { k.used.Add(messages<<32 + bytes) }

// Known returns how many contexts k remembers.
func (k *MessageKey) Known() (n int) {
	for i := range k.commits.known {
		if k.commits.known[i].Load() != nil {
			n++
		}
	}
	return n
}

// Renew lets k seal as many messages as a new key, for a benchmark that seals without end.
func (k *MessageKey) Renew() { k.used.Store(0) }
