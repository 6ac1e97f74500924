package settings

import (
	"fmt"
	"strconv"
	"strings"
)

// Example returns a file with every setting in a comment, and nothing set: it parses
// as it is, and each line without its "#" sets what is said of it.
func (t Table) Example() string {
	var b strings.Builder
	section := ""
	for i := range t {
		s := &t[i]
		if s.Section() != section {
			section = s.Section()
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		fmt.Fprintf(&b, "\n# %s: %s.\n# --%s, %s\n#%s = %s\n", s.Doc, s.Allowed(), s.FlagName(), s.EnvName(), s.Key(), s.example())
	}
	return b.String()
}

// example returns a value as it is written in the file: the default, or one that
// shows what is meant.
func (s *Setting) example() string {
	switch {
	case s.Kind == Number || s.Kind == Bool:
		return s.Default
	case s.Default == "":
		return strconv.Quote(s.Placeholder())
	}
	return strconv.Quote(s.Default)
}
