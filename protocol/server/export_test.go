package server

import (
	"context"
	"net/netip"
)

// Seats are those of handshakes that compute.
type Seats struct{ s seats }

func NewSeats(free int) *Seats { return &Seats{seats{free: free}} }

func (s *Seats) Take(ctx context.Context, from netip.Addr, again bool) error {
	return s.s.take(ctx, from, again)
}
func (s *Seats) Give() { s.s.give() }

// AddressOf is who counts as one stranger.
var AddressOf = addressOf
