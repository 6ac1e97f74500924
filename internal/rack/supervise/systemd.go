package supervise

import (
	"log/slog"
	"net"
)

// Systemd returns how to tell a service manager of states, sd_notify(3): one
// datagram each to the Unix socket at path, the NOTIFY_SOCKET of a unit with
// Type=notify. An @ stands for an abstract name. Where path is empty, nobody is told.
func Systemd(path string, logger *slog.Logger) func(status string) {
	return func(status string) {
		if path == "" {
			return
		}
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
		if err == nil {
			_, err = c.Write([]byte(status))
			c.Close()
		}
		if err != nil {
			logger.Warn("the service manager was not told", "status", status, "error", err)
		}
	}
}
