package client

import (
	"context"
	"net"
)

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
	for _, w := range s.conn.pending {
		if w.done != nil {
			waiting++
		}
	}
	return len(s.conn.pending), waiting
}

// NewOver returns a client whose connections dial makes, for a clock of its own.
func NewOver(cfg Config, dial func(context.Context) (net.Conn, error)) (*Client, error) {
	cfg.Socket = "dial"
	c, err := New(cfg)
	if err == nil {
		c.dial = dial
	}
	return c, err
}

// Silence and the others are what a client bounds.
const (
	Silence      = silence
	BudgetOfConn = budgetPerConn
	BudgetRatio  = budgetRatio
)
