package settings

// Nearest returns the word of all that was probably meant by one that is none of
// them, or "": at most a third of its letters may be wrong, missing, too much or
// changed places with their neighbour.
func Nearest(word string, all []string) string {
	best, least := "", max(1, len(word)/3)+1
	for _, w := range all {
		if d := distance(word, w, least); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance returns how many edits lead from a to b (optimal string alignment), or
// limit if there are as many.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			next[j+1] = min(row[j+1]+1, next[j]+1, row[j]+differ(a[i], b[j]))
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return min(limit, row[len(b)])
}

// differ is 1 for letters that are not the same.
func differ(a, b byte) int {
	if a == b {
		return 0
	}
	return 1
}
