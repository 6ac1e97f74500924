package rack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/keyrack/keyrack/access/identity"
)

// serverCertificate reads the server's certificate and key from one PEM file,
// or makes them and says so. Clients pin the key, so it is made once. ErrServerKey
// is a file that others may read, that is not an ordinary one or holds something else.
func serverCertificate(dir string) (cert tls.Certificate, made bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return cert, false, err
	}
	defer root.Close()
	info, err := root.Lstat(serverName)
	if made = errors.Is(err, os.ErrNotExist); made {
		if err = makeServerKey(root, serverName); err == nil {
			info, err = root.Lstat(serverName)
		}
	}
	if err != nil {
		return cert, false, err
	}
	path := filepath.Join(dir, serverName)
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return cert, false, fmt.Errorf("%w: %s has mode %v", ErrServerKey, path, info.Mode())
	}
	content, err := root.ReadFile(serverName)
	if err != nil {
		return cert, false, err
	}
	if cert, err = tls.X509KeyPair(content, content); err != nil {
		return cert, false, fmt.Errorf("%w: %s: %w", ErrServerKey, path, err)
	}
	return cert, made, nil
}

// makeServerKey makes the file whole or not at all.
func makeServerKey(root *os.Root, name string) error {
	certPEM, keyPEM, err := newCertificate("keyrack")
	if err != nil {
		return err
	}
	fresh := name + ".new"
	if err := root.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) { // of a start that was cut off
		return err
	}
	if err := writeNew(root, fresh, append(keyPEM, certPEM...)); err != nil {
		return err
	}
	return root.Rename(fresh, name)
}

// NewClient makes a client's key and certificate in two new PEM files, name.pem
// and name.key (0600), below dir, and returns the hash that an appliance knows
// the client by. The key leaves no other trace. Where either file is there already,
// or cannot be written, neither is made.
func NewClient(dir, name string) (hash identity.KeyHash, certPath, keyPath string, err error) {
	certPEM, keyPEM, err := newCertificate(name)
	if err != nil {
		return hash, "", "", err
	}
	block, _ := pem.Decode(certPEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return hash, "", "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return hash, "", "", err
	}
	defer root.Close()
	if err = writeNew(root, name+".key", keyPEM); err != nil {
		return hash, "", "", err
	}
	if err = writeNew(root, name+".pem", certPEM); err != nil {
		return hash, "", "", errors.Join(err, root.Remove(name+".key"))
	}
	return identity.HashOf(leaf.RawSubjectPublicKeyInfo), filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"), nil
}

// writeNew writes and syncs a file that must not exist yet. One that cannot be
// written whole is removed.
func writeNew(root *os.Root, name string, content []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, root.Remove(name))
	}
	return nil
}

// newCertificate makes a P-256 key and a self-signed certificate for it. The
// certificate only carries the key: whoever checks it looks at the key's hash.
func newCertificate(name string) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
