package securemem

// Arena lets a test have an arena of its own, with a kernel that refuses.
type Arena struct{ *arena }

// NewArena returns an arena of at most limit bytes; nil functions stand for the real kernel.
func NewArena(limit int, lock, hide func([]byte) error) Arena {
	if lock == nil {
		lock = lockPages
	}
	if hide == nil {
		hide = hidePages
	}
	return Arena{newArena(limit, lock, hide)}
}

func (a Arena) New(n int) (*Buffer, error) { return a.new(n) }
func (a Arena) Status() State              { return a.status() }
func (a Arena) AllowUnlocked(allow bool)   { a.allowUnlocked(allow) }
