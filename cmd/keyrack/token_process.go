package main

import (
	"context"
	"flag"

	"github.com/keyrack/keyrack/internal/rack"
)

// tokenProcessCommand is the process that holds a PKCS#11 token. Only init and serve run it, so it is in no list.
var tokenProcessCommand = command{
	name: rack.TokenProcess, short: "a part of init and serve", hidden: true,
	long:    "Is started by keyrack init and keyrack serve.",
	settled: true,
	flags: func(*flag.FlagSet) action {
		return func(_ *shell, words, _ []string) error {
			if len(words) != 2 {
				return usagef("keyrack help init", "this process holds a token for another one")
			}
			if err := rack.HoldToken(context.Background(), words[0], words[1]); err != nil {
				return hinted("run keyrack init or keyrack serve, which start this process", "%w", err)
			}
			return nil
		}
	},
}
