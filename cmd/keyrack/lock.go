package main

import (
	"context"
	"errors"
	"flag"
	"net"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/protocol/client"
)

// lockCommand is keyrack:Lock.
var lockCommand = command{
	name: "lock", args: operatorArgs, short: "take every key from memory, and serve nobody",
	long: `
Locks the appliance: the process that holds keys ends, and another one waits for
keyrack unlock, reachable over the local Unix socket alone. Prints LOCKED when it
is so.` + operatorLong,
	examples: []string{"keyrack lock --dir /var/lib/keyrack"},
	flags:    lockFlags,
}

// unlockCommand is keyrack:Unlock.
var unlockCommand = command{
	name: "unlock", args: operatorArgs, short: "open the domain key with the token, and serve",
	long: `
Unlocks the appliance, and prints UNLOCKED when it serves.

An appliance whose --token has pin-ask=yes waits for the PIN of its token first. It
is asked for on the terminal, which does not show it, or is one line of standard
input. It is tried once; a wrong one is told, with the tries that are left where the
token tells.` + operatorLong,
	examples: []string{"keyrack unlock --dir /var/lib/keyrack", "keyrack unlock --dir /var/lib/keyrack < /run/media/stick/pin"},
	flags:    unlockFlags,
}

// What the operator's commands have in common.
const (
	operatorArgs = "[--dir DIR | --socket PATH] [--output FORMAT]"
	operatorLong = `

It asks over the local Unix socket, which is for root and the appliance's own user.`

	unlockTimeout = 10 * time.Minute // every bucket of the store is read
	lockTimeout   = time.Minute
	pollEvery     = 100 * time.Millisecond
)

// lockFlags declares the flags and acts.
func lockFlags(fs *flag.FlagSet) action {
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		if _, err := call(c, applianceapi.Lock, &applianceapi.LockRequest{}); err != nil {
			return err
		}
		s, err := untilLocked(c)
		if err != nil {
			return err
		}
		return format.print(sh.out, struct{ State string }{s.State.String()}, s.State.String()+"\n")
	})
}

// unlockFlags declares the flags and acts.
func unlockFlags(fs *flag.FlagSet) action {
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		out := new(applianceapi.UnlockResponse)
		err := callFor(c, unlockTimeout, applianceapi.Unlock.Op, &applianceapi.UnlockRequest{}, out)
		if desk := waits(err); desk != "" {
			if err = sh.givePIN(desk); err == nil {
				err = unlockSoon(c, out)
			}
		}
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(applianceapi.Unlock.Op, out), out.State.String()+"\n")
	})
}

// operatorFlags declares where the appliance is and how to print, and makes an
// action of one that needs no more.
func operatorFlags(fs *flag.FlagSet, act func(*shell, *client.Client, *format) error) action {
	socket := socketFlag(fs)
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		c, err := sh.local(*socket)
		if err != nil {
			return err
		}
		defer c.Close()
		err = act(sh, c, format)
		if waits(err) != "" {
			return hinted("keyrack unlock gives it the PIN", "the appliance is locked, and waits for the PIN of its token")
		}
		return err
	})
}

// givePIN gives an appliance that waits at a desk its token's PIN.
func (sh *shell) givePIN(desk string) error {
	pin, err := sh.readPIN("PIN of the token: ")
	if err != nil {
		return err
	}
	defer pin.Free()
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	return rack.GivePIN(ctx, desk, pin)
}

// unlockSoon unlocks an appliance that has got its PIN, and answers in a moment.
func unlockSoon(c *client.Client, out *applianceapi.UnlockResponse) error {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	for {
		err := callFor(c, unlockTimeout, applianceapi.Unlock.Op, &applianceapi.UnlockRequest{}, out)
		if !unreachable(err) || pause(ctx) != nil {
			return err
		}
	}
}

// unreachable reports whether nobody has answered at the operator's socket.
func unreachable(err error) bool {
	return dialing(syscall.ENOENT)(err) || dialing(syscall.ECONNREFUSED)(err)
}

// waits returns where the appliance takes its PIN that has not answered because it waits for that, else "".
func waits(err error) string {
	if !unreachable(err) {
		return ""
	}
	e, ok := errors.AsType[*net.OpError](err)
	if !ok || e.Addr == nil {
		return ""
	}
	if desk := rack.DeskPath(e.Addr.String()); rack.WaitsForPIN(desk) {
		return desk
	}
	return ""
}

// untilLocked waits until the process that answers is a locked one.
func untilLocked(c *client.Client) (s *applianceapi.GetStatusResponse, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	for {
		s, err = call(c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		switch {
		case err == nil && s.State == applianceapi.Locked:
			return s, nil
		case waits(err) != "":
			return &applianceapi.GetStatusResponse{State: applianceapi.Locked}, nil
		}
		if pause(ctx) != nil {
			return nil, hinted("see the log of keyrack serve", "the keys have left memory, but no locked process answers after %v: %w", lockTimeout, errors.Join(ctx.Err(), err))
		}
	}
}

// pause waits before something is asked for again.
func pause(ctx context.Context) error {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
