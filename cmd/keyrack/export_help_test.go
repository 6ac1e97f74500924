package main

import (
	"errors"
	"flag"
	"io"

	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/settings"
)

// Command is what help says of a command.
type Command struct {
	Name, Short string
	Examples    []string
}

// Commands returns the commands that help lists.
func Commands() (all []Command) {
	for _, c := range commands() {
		if !c.hidden {
			all = append(all, Command{c.name, c.short, c.examples})
		}
	}
	return all
}

// Settings returns the table of settings.
func Settings() settings.Table { return allSettings }

// Parses reports what is wrong with the flags of a command line, which is not run.
func Parses(args []string) error {
	c, rest := find(args)
	if c == nil {
		return unknownCommand(args)
	}
	fs, _ := c.declare()
	switch c.name {
	case "help":
		return help(&shell{out: io.Discard, err: io.Discard}, rest, nil)
	case "call":
		op, err := findOperation(rest)
		if err != nil {
			return err
		}
		fs, rest = (&request{op: op, in: op.NewIn()}).flags(), rest[2:]
	}
	if _, _, err := parse(fs, rest); err != nil && !errors.Is(err, flag.ErrHelp) {
		return err
	}
	return nil
}

// RackConfig returns the appliance that serve makes of settings, without what cannot
// be compared.
func RackConfig(given map[string]string) (rack.Config, error) {
	values, err := allSettings.Resolve(given, func(string) string { return "" }, nil)
	if err != nil {
		return rack.Config{}, err
	}
	cfg, err := (&shell{err: io.Discard, settings: values}).rackConfig("serve")
	cfg.Token, cfg.Logger = nil, nil
	return cfg, err
}
