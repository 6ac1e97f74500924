package remote

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/keyrack/keyrack/internal/securemem"
)

const (
	secretDescriptor = 4    // of a pipe with the secret, in the process that serves
	maxSecret        = 4096 // bytes: a pipe takes them at once (pipe(7), PIPE_BUF)
)

// addSecret gives a process that is not started yet the secret in a pipe, which nobody else has open: no command line,
// environment or file shows it.
func (c *Config) addSecret(cmd *exec.Cmd) error {
	if c.Secret == nil {
		return nil
	}
	secret, err := c.Secret()
	if err != nil {
		return err
	}
	defer secret.Free()
	if secret.Len() > maxSecret {
		return fmt.Errorf("remote: a secret of more than %d bytes", maxSecret)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	_, err = w.Write(secret.Bytes())
	return errors.Join(err, w.Close())
}

// Secret returns the secret that the process got which is to call Serve, once, in locked memory that the caller frees.
func Secret() (*securemem.Buffer, error) {
	f := os.NewFile(secretDescriptor, "secret")
	defer f.Close()
	room, err := securemem.New(maxSecret)
	if err != nil {
		return nil, err
	}
	defer room.Free()
	n, err := io.ReadFull(f, room.Bytes())
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("remote: no secret at descriptor %d: %w", secretDescriptor, err)
	}
	return securemem.From(room.Bytes()[:n])
}
