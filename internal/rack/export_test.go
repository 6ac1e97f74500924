package rack

import "github.com/keyrack/keyrack/api"

// ParseMark reads the mark of a folder for development.
func ParseMark(mark []byte) api.KeyID { return parseMark(mark) }

// Escape writes a value as a specification has it.
var Escape = escape
