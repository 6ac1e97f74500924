package keystore

// What a layer may add to the transactions that pass through it: a row of its own beside each row,
// and some bytes to each value.
const (
	wideRows  = 3 * MaxRows
	wideValue = MaxValue + 256
	wideBytes = MaxBytes + MaxBytes/4
)

// Meter holds one transaction to the limits of this package and remembers its first error, for
// engines and for layers that keep their own count. The zero value is ready. It is not safe for
// concurrent use.
type Meter struct {
	rows  map[Name]struct{}
	bytes int
	wide  bool
	err   error
}

// Read counts a row that is read. It returns what [Meter.Fail] remembers: ErrName, ErrTooManyRows,
// or an earlier error.
func (m *Meter) Read(n Name) error {
	if m.err != nil {
		return m.err
	}
	if !n.Valid() {
		return m.Fail(ErrName)
	}
	if _, seen := m.rows[n]; seen {
		return nil
	}
	if len(m.rows) >= m.pick(MaxRows, wideRows) {
		return m.Fail(ErrTooManyRows)
	}
	if m.rows == nil {
		m.rows = make(map[Name]struct{}, 8)
	}
	m.rows[n] = struct{}{}
	return nil
}

// Write counts a row that is written with a value of size bytes. Errors are those of Read, and
// ErrTooLarge.
func (m *Meter) Write(n Name, size int) error {
	if err := m.Read(n); err != nil {
		return err
	}
	if size > m.pick(MaxValue, wideValue) {
		return m.Fail(ErrTooLarge)
	}
	m.bytes += n.Len() + size
	if m.bytes > m.pick(MaxBytes, wideBytes) {
		return m.Fail(ErrTooLarge)
	}
	return nil
}

// Fail remembers err, unless there was an error before, and returns what it remembers. The
// transaction must then not commit: a function that overlooked an error has decided on less than it
// asked for.
func (m *Meter) Fail(err error) error {
	if m.err == nil {
		m.err = err
	}
	return m.err
}

// Err returns the first error, or nil.
func (m *Meter) Err() error { return m.err }

// Widen raises the limits as [Widen] says.
func (m *Meter) Widen() { m.wide = true }

func (m *Meter) pick(narrow, wide int) int {
	if m.wide {
		return wide
	}
	return narrow
}

// Widen tells an engine's transaction that the caller is a layer which holds its own callers to the
// limits of this package and adds to their rows: the transaction may then touch 120 rows, with
// values 256 bytes longer and a quarter more bytes in all. It does nothing for a Tx without a
// method Widen().
func Widen(tx Tx) {
	if w, ok := tx.(interface{ Widen() }); ok {
		w.Widen()
	}
}
