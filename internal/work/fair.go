package work

import "slices"

// Queue holds what waits, by whom it waits for: each of them is first come first served, and they
// take turns, so that one who brings a thousand delays another by one. The zero value is empty and
// ready. For one goroutine at a time.
type Queue[K comparable, T any] struct {
	waiting map[K][]T
	turn    []K // those who wait, the next first
}

// Push puts v behind what waits for k.
func (q *Queue[K, T]) Push(k K, v T) {
	if q.waiting == nil {
		q.waiting = map[K][]T{}
	}
	line := q.waiting[k]
	if len(line) == 0 {
		q.turn = append(q.turn, k)
	}
	q.waiting[k] = append(line, v)
}

// Pop takes the oldest of whoever is the next of those that may go on, or nothing.
func (q *Queue[K, T]) Pop(may func(K) bool) (k K, v T, ok bool) {
	i := slices.IndexFunc(q.turn, may)
	if i < 0 {
		return k, v, false
	}
	k = q.turn[i]
	q.turn = slices.Delete(q.turn, i, i+1)
	line := q.waiting[k]
	v, line[0] = line[0], v
	if line = line[1:]; len(line) == 0 {
		delete(q.waiting, k)
	} else {
		q.waiting[k] = line
		q.turn = append(q.turn, k)
	}
	return k, v, true
}
