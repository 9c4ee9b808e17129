package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// TLS says how to encrypt connections to brokers, with names of PEM files. Its
// zero value does not encrypt.
type TLS struct {
	Enabled bool

	// CAFile holds the authorities that brokers' certificates are checked
	// against, and is read again like the certificate. Defaults to those of the system.
	CAFile string

	// CertFile and KeyFile are the client's certificate and its key, both or
	// neither. They are read again for every connection, so that they can be
	// replaced while the sink runs.
	CertFile, KeyFile string

	// ServerName is the name that certificates must bear. Defaults to the
	// host of the broker that is dialled.
	ServerName string

	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool
}

// Config returns the settings for [Config], nil if TLS is not enabled, or all
// problems with the files.
func (t TLS) Config() (*tls.Config, error) {
	if !t.Enabled {
		return nil, t.checkDisabled()
	}
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // asked for by name
	}
	var caErr error
	if t.CAFile != "" {
		c.RootCAs, caErr = loadAuthorities(t.CAFile)
	}
	if err := errors.Join(caErr, t.loadCertificate(c)); err != nil {
		return nil, err
	}
	return c, nil
}

// Authorities returns a function for [Config], nil if TLS is not enabled or the authorities are
// the system's. It reads CAFile anew, and returns what it has read last while the file cannot be
// used.
func (t TLS) Authorities() func() *x509.CertPool {
	if !t.Enabled || t.CAFile == "" {
		return nil
	}
	var last atomic.Pointer[x509.CertPool]
	return func() *x509.CertPool {
		if pool, err := loadAuthorities(t.CAFile); err == nil {
			last.Store(pool)
		}
		return last.Load()
	}
}

// checkDisabled refuses files that would not be used.
func (t TLS) checkDisabled() error {
	if t != (TLS{}) {
		return errors.New("tls: settings are given, but tls is not enabled")
	}
	return nil
}

func loadAuthorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls: read ca file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls: ca file %s holds no certificate", file)
	}
	return pool, nil
}

func (t TLS) loadCertificate(c *tls.Config) error {
	switch {
	case t.CertFile == "" && t.KeyFile == "":
		return nil
	case t.CertFile == "" || t.KeyFile == "":
		return errors.New("tls: want both of certificate and key, or neither")
	}
	if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
		return fmt.Errorf("tls: load certificate and key: %w", err)
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		return &cert, err
	}
	return nil
}
