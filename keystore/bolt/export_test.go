package bolt

// OpenMapped is Open with this much address space for the file.
func OpenMapped(path string, size int) (*Store, error) {
	return open(path, func(int64) int { return size })
}
