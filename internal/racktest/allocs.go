package racktest

import "testing"

// Allocs returns how many allocations a call of f makes on average over runs calls. after is run behind each
// measurement. It is the least of a few measurements: what else the process does meanwhile, such as signing a
// checkpoint, counts too, and can only add. Not for parallel tests, as testing.AllocsPerRun.
func Allocs(runs int, f, after func()) (least float64) {
	for n := range 5 {
		got := testing.AllocsPerRun(runs, f)
		after()
		if n == 0 || got < least {
			least = got
		}
	}
	return least
}
