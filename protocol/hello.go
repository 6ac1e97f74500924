package protocol

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/keyrack/keyrack/api"
)

// Hello is the server's first frame, a reply to id 0 without error. It lets a
// client know whom it speaks to before it asks for anything.
type Hello struct {
	ApplianceId string `n:"1" rule:"required,len=36:36"` // UUID
	Version     string `n:"2" rule:"required,len=1:64"`  // of the server's software
	Window      int64  `n:"3" rule:"required,range=1:1048576"`
	Checkpoint  string `n:"4" rule:"len=0:16384"` // newest signed checkpoint of the audit log; "" before the first
}

var helloTable = api.StructOf(reflect.TypeFor[Hello]())

// AppendHello appends the hello as a whole frame.
func AppendHello(dst []byte, h *Hello) []byte {
	at := len(dst)
	return closeFrame(helloTable.AppendCBOR(appendReplyHead(dst, 0, api.KindNone), h), at)
}

// ParseHello reads the first frame of a connection: the hello, or the error
// that ends the connection.
func ParseHello(frame []byte) (*Hello, error) {
	p, err := ParseReply(frame)
	if err == nil && p.ID != 0 {
		err = errors.New("the first frame is not a hello")
	}
	if err == nil {
		err = p.Err()
	}
	h := new(Hello)
	if err == nil {
		err = helloTable.DecodeReply(p.Body, h)
	}
	if err == nil && (h.ApplianceId == "" || h.Window == 0) {
		err = errors.New("it does not say whose it is and how many requests may wait")
	}
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	return h, nil
}
