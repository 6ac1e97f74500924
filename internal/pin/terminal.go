package pin

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hush has a terminal show nothing of what is typed (termios(3), ECHO), until back is called. A signal that ends the process
// (Ctrl-C, SIGTERM, SIGHUP) puts the terminal back first, and the status is 130.
func Hush(f *os.File) (back func(), err error) {
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *before
	quiet.Lflag = quiet.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &quiet); err != nil {
		return nil, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	restore := func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }
	go func() {
		select {
		case <-signals:
			restore()
			os.Exit(130)
		case <-done:
		}
	}()
	return func() { signal.Stop(signals); close(done); restore() }, nil
}
