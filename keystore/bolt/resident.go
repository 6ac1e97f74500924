package bolt

import "syscall"

// mappedRows is how many rows are written until the process gives back the pages of bolt's mapping.
const mappedRows = 256

// letGo gives back the pages of bolt's mapping once enough rows have been written. For each row bolt reads
// a path of the tree there, and the kernel maps the 16 pages around each one that is touched: of a store that
// is written all over, most would stay in the memory of the process, and count as its own. They stay in the
// kernel's cache, which gives them up for others.
//
// Only commits move the mapping, and only one runs. It is at least as long as room, which it
// began with; what lies behind that is left alone. What the kernel answers changes nothing.
func (e *engine) letGo(im *image, rows int) {
	if e.written += rows; e.written < mappedRows {
		return
	}
	e.written = 0
	length := min(uint64(e.room), im.pages*uint64(im.pageSize))
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, e.db.Info().Data, uintptr(length), syscall.MADV_DONTNEED)
}
