package pkcs11

import "github.com/keyrack/keyrack/hsm"

// Report is what a token tells of itself without a login (PKCS#11 2.40, section 3.2, CK_TOKEN_INFO).
type Report struct {
	hsm.Description

	Label, Firmware string
	FreeBytes       uint64 // of memory for private objects; 0 = the token does not say
	NeedsPIN        bool   // nothing is to be had without a login
	NoPIN           bool   // its user has none yet
	WrongPIN        bool   // a wrong one was tried since the last right one
	FinalTry        bool   // one wrong PIN more locks it
	PINLocked       bool
	SelfTestFailed  bool
}
