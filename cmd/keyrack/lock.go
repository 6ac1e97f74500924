package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
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
	long:     "Unlocks the appliance, and prints UNLOCKED when it serves." + operatorLong,
	examples: []string{"keyrack unlock --dir /var/lib/keyrack"},
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
		if err := callFor(c, unlockTimeout, applianceapi.Unlock.Op, &applianceapi.UnlockRequest{}, out); err != nil {
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
		return act(sh, c, format)
	})
}

// untilLocked waits until the process that answers is a locked one.
func untilLocked(c *client.Client) (s *applianceapi.GetStatusResponse, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	for {
		s, err = call(c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		if err == nil && s.State == applianceapi.Locked {
			return s, nil
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
