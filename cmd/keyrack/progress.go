package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// isTerminal reports whether w, a reader or a writer, is where a person may be: a character device
// that is none of the memory's, such as /dev/null (major number 1, null(4)).
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return !ok || stat.Rdev>>8&0xfff != 1 // makedev(3): the major number's lower bits
}

// progress shows how far something is, on one line of a terminal that the next
// one replaces, and nothing elsewhere.
func (sh *shell) progress(format string, args ...any) {
	if isTerminal(sh.err) {
		fmt.Fprintf(sh.err, "\r\x1b[K"+format, args...)
	}
}

// meterPause is how long a line of a meter stays at least: what counts fast is not
// slowed down by showing it.
const meterPause = 100 * time.Millisecond

// meter shows how far long work is: how much of how much is done, how fast it goes
// and how long it takes yet. It shows nothing where no terminal is. It is for one
// goroutine.
type meter struct {
	sh    *shell // nil where nobody looks on
	unit  string // of what is counted: "records"
	first int64  // done when it began
	begun time.Time
	shown time.Time // zero while no line stands
}

// meter returns a meter of things of one kind.
func (sh *shell) meter(unit string) *meter {
	m := &meter{unit: unit}
	if isTerminal(sh.err) {
		m.sh = sh
	}
	return m
}

// show says that done of total are done. A total of 0 is one that is not known.
func (m *meter) show(done, total int64) {
	if m.sh == nil {
		return
	}
	now := time.Now()
	if m.begun.IsZero() {
		m.begun, m.first = now, done
	}
	if now.Sub(m.shown) < meterPause {
		return
	}
	m.shown = now
	m.sh.progress("%s", meterText(m.unit, done-m.first, done, total, now.Sub(m.begun)))
}

// clear takes the line away, so that something else can be printed.
func (m *meter) clear() {
	if m.sh != nil && !m.shown.IsZero() {
		m.sh.progress("")
		m.shown = time.Time{}
	}
}

// meterText returns a meter's line; did is how much was done in the time since it
// began, which is enough to tell the rate after a second.
func meterText(unit string, did, done, total int64, since time.Duration) string {
	text := fmt.Sprintf("%d %s", done, unit)
	if total > 0 {
		text = fmt.Sprintf("%d of %d %s (%d%%)", done, total, unit, 100*min(done, total)/total)
	}
	if since < time.Second || did <= 0 {
		return text
	}
	rate := float64(did) / since.Seconds()
	text += fmt.Sprintf(", %.0f a second", rate)
	if left := float64(total-done) / rate; total > done && left < 100*3600 {
		text += fmt.Sprintf(", %v left", (time.Duration(left)*time.Second + time.Second).String())
	}
	return text
}

// interruptible returns a context that ends at Ctrl-C or a request to terminate,
// instead of the process. A second one ends that.
func interruptible() (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// interruptedStatus is the exit status after Ctrl-C, as a shell has it: 128+SIGINT.
const interruptedStatus = 130

// errInterrupted is wrapped by the errors of work that was ended by its user: what it
// says was done so far was done.
var errInterrupted = errors.New("interrupted")

// unlessInterrupted returns errInterrupted once an interruptible context has ended.
func unlessInterrupted(ctx context.Context) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

// interrupted makes the error of a command, which ends with its exit status.
func interrupted(hint, format string, args ...any) error {
	return &problem{fmt.Errorf(format, args...), hint, interruptedStatus}
}
