package kms

import (
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// states is a set of key states: bit n is state n.
type states uint16

func setOf(all ...kmsapi.KeyState) (s states) {
	for _, state := range all {
		s |= 1 << state
	}
	return s
}

// What the states of a key allow (AWS KMS developer guide, "Key states of AWS
// KMS keys"). Operations that are not here are allowed in all of them. A key
// that is Unavailable would take a change of state once it is back; there is none
// here, as no key lives in a store that can be disconnected.
var (
	usableStates   = setOf(kmsapi.StateEnabled, kmsapi.StateUpdating)
	enabledStates  = setOf(kmsapi.StateEnabled) // to be rotated or replicated
	switchedStates = setOf(kmsapi.StateEnabled, kmsapi.StateDisabled)
	keptStates     = ^setOf(kmsapi.StatePendingDeletion, kmsapi.StatePendingReplicaDeletion) // to get aliases, tags or another description
)

// stateWords are how AWS's errors call a state.
var stateWords = map[kmsapi.KeyState]string{
	kmsapi.StateDisabled:               "disabled",
	kmsapi.StatePendingDeletion:        "pending deletion",
	kmsapi.StatePendingReplicaDeletion: "pending replica deletion",
	kmsapi.StatePendingImport:          "pending import",
	kmsapi.StateCreating:               "creating",
	kmsapi.StateUnavailable:            "unavailable",
	kmsapi.StateUpdating:               "updating",
}

// refuse returns AWS's error unless the key's state is in the set:
// DisabledException for a disabled key, else KMSInvalidStateException.
func (s states) refuse(arn string, state kmsapi.KeyState) error {
	if s&(1<<state) != 0 {
		return nil
	}
	kind := api.KindInvalidState
	if state == kmsapi.StateDisabled {
		kind = api.KindDisabled
	}
	return api.Errorf(kind, "%s is %s.", arn, stateWords[state])
}
