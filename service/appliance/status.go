package appliance

import (
	"runtime/metrics"
	"syscall"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api/applianceapi"
)

// GetStatus says how the appliance is.
func (s *Service) GetStatus(c *access.Call, _ *applianceapi.GetStatusRequest, out *applianceapi.GetStatusResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	log := s.Log.State()
	*out = applianceapi.GetStatusResponse{
		ApplianceId: s.ID, Version: s.Version, State: s.State(), StartTime: s.Started,
		ServerKey: s.ServerKey, Token: s.Token, AuditRecords: int64(log.Durable),
		AuditDurability: log.Durability.String(), Connections: int64(s.Connections()),
		CPUMicros: cpuMicros(), Warnings: s.Warnings(),
	}
	out.Allocations, out.AllocatedBytes = allocated()
	r := s.Records()
	out.Address, out.DomainKeyVersion, out.Rotating = s.Address(), int64(r.KeyVersion), r.Rotating
	out.Generation, out.Buckets, out.Rows = int64(r.Generation), int64(r.Buckets), int64(r.Rows)
	out.Principals = int64(r.Principals)
	return nil
}

// cpuMicros returns the CPU time of this process so far, user and system, in µs
// (getrusage(2)).
func cpuMicros() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano()/1000 + u.Stime.Nano()/1000
}

// allocated returns the heap objects and bytes allocated so far.
func allocated() (objects, bytes int64) {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64()), int64(samples[1].Value.Uint64())
}
