package quota

// Buckets returns how many are kept.
func (l *Limiter) Buckets() int { return len(l.buckets) }
