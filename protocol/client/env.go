package client

import (
	"crypto/tls"
	"fmt"
)

// Names of the environment variables that [FromEnv] reads.
const (
	EnvAddr      = "KEYRACK_ADDR"       // host:port
	EnvServerKey = "KEYRACK_SERVER_KEY" // sha256: and 64 hex digits
	EnvCert      = "KEYRACK_CERT"       // path of our certificate, PEM
	EnvKey       = "KEYRACK_KEY"        // path of its private key, PEM
	EnvAuditKey  = "KEYRACK_AUDIT_KEY"  // verifier key of the audit log; may be missing
	EnvSocket    = "KEYRACK_SOCKET"     // path of the Unix socket; used only by operator's calls
)

// FromEnv returns the configuration that the environment describes, read by
// getenv (os.Getenv). All but the audit key must be set. Socket is left out: a caller for whom the operator's
// socket is right takes it from EnvSocket itself.
func FromEnv(getenv func(string) string) (Config, error) {
	cfg := Config{Addr: getenv(EnvAddr), ServerKey: getenv(EnvServerKey), AuditKey: getenv(EnvAuditKey)}
	for _, name := range []string{EnvAddr, EnvServerKey, EnvCert, EnvKey} {
		if getenv(name) == "" {
			return Config{}, fmt.Errorf("environment variable %s is not set", name)
		}
	}
	cert, err := tls.LoadX509KeyPair(getenv(EnvCert), getenv(EnvKey))
	if err != nil {
		return Config{}, fmt.Errorf("our certificate (%s, %s): %w", EnvCert, EnvKey, err)
	}
	cfg.Certificate = cert
	return cfg, nil
}
