package client

// UnderWay returns how many requests of the client's first connection are not
// answered, and how many of them somebody waits for.
func UnderWay(c *Client) (all, waiting int) {
	s := &c.slots[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return 0, 0
	}
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	for _, done := range s.conn.pending {
		if done != nil {
			waiting++
		}
	}
	return len(s.conn.pending), waiting
}
