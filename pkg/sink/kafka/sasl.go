package kafka

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// The mechanisms of [SASL].
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
	OAuthBearer = "OAUTHBEARER"
	AWSMSKIAM   = "AWS_MSK_IAM"
)

// SASL says how to authenticate. Its zero value does not.
type SASL struct {
	// Mechanism is one of the constants above, or empty for none.
	Mechanism string

	// Username and Password serve PLAIN and SCRAM.
	Username, Password string

	// Token or TokenFile serves OAUTHBEARER. The file is read again for
	// every session, so that it can be replaced while the sink runs.
	Token, TokenFile string
}

func (s SASL) validate() error {
	switch s.Mechanism {
	case "":
		if s != (SASL{}) {
			return errors.New("sasl: settings are given, but no mechanism")
		}
	case Plain, ScramSHA256, ScramSHA512:
		if s.Username == "" || s.Password == "" {
			return fmt.Errorf("sasl: %s wants a username and a password", s.Mechanism)
		}
	case OAuthBearer:
		if (s.Token == "") == (s.TokenFile == "") {
			return errors.New("sasl: OAUTHBEARER wants one of token and token file")
		}
	case AWSMSKIAM:
	default:
		return fmt.Errorf("sasl mechanism %q: want one of %s", s.Mechanism,
			strings.Join([]string{Plain, ScramSHA256, ScramSHA512, OAuthBearer, AWSMSKIAM}, ", "))
	}
	return nil
}

// mechanism returns nil if there is none.
func (s SASL) mechanism() sasl.Mechanism {
	switch s.Mechanism {
	case Plain:
		return patient{plain.Auth{User: s.Username, Pass: s.Password}.AsMechanism()}
	case ScramSHA256:
		return patient{scram.Auth{User: s.Username, Pass: s.Password}.AsSha256Mechanism()}
	case ScramSHA512:
		return patient{scram.Auth{User: s.Username, Pass: s.Password}.AsSha512Mechanism()}
	case OAuthBearer:
		return patient{oauth.Oauth(s.token)}
	case AWSMSKIAM:
		return patient{aws.ManagedStreamingIAM(new(awsCredentials).retrieve)}
	default:
		return nil
	}
}

func (s SASL) token(context.Context) (oauth.Auth, error) {
	if s.TokenFile == "" {
		return oauth.Auth{Token: s.Token}, nil
	}
	token, err := os.ReadFile(s.TokenFile)
	if err != nil {
		return oauth.Auth{}, fmt.Errorf("read token file: %w", err)
	}
	return oauth.Auth{Token: strings.TrimSpace(string(token))}, nil
}

// awsCredentials asks the SDK's default chain, which is built at the first
// session that can build it and keeps and renews what it finds.
type awsCredentials struct {
	mu    sync.Mutex
	chain awssdk.CredentialsProvider // guarded by mu
}

func (a *awsCredentials) retrieve(ctx context.Context) (aws.Auth, error) {
	chain, err := a.load(ctx)
	if err != nil {
		return aws.Auth{}, err
	}
	c, err := chain.Retrieve(ctx)
	if err != nil {
		return aws.Auth{}, fmt.Errorf("retrieve AWS credentials: %w", err)
	}
	return aws.Auth{AccessKey: c.AccessKeyID, SecretKey: c.SecretAccessKey, SessionToken: c.SessionToken}, nil
}

func (a *awsCredentials) load(ctx context.Context) (awssdk.CredentialsProvider, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.chain == nil {
		c, err := awsconfig.LoadDefaultConfig(ctx)
		if err != nil {
			return nil, fmt.Errorf("load AWS configuration: %w", err)
		}
		a.chain = c.Credentials
	}
	return a.chain, nil
}

// patient marks a mechanism's own errors as passing. The client library would
// otherwise take them for final and fail records: a token that has expired or
// a password that is about to be changed is an outage.
type patient struct{ sasl.Mechanism }

func (p patient) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	s, msg, err := p.Mechanism.Authenticate(ctx, host)
	if err != nil {
		return nil, nil, passing{err}
	}
	return patientSession{s}, msg, nil
}

type patientSession struct{ sasl.Session }

func (p patientSession) Challenge(msg []byte) (bool, []byte, error) {
	done, reply, err := p.Session.Challenge(msg)
	if err != nil {
		err = passing{err}
	}
	return done, reply, err
}

// passing is an error that may pass. The client library asks for Temporary.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

// Temporary makes the client library try again.
func (passing) Temporary() bool { return true }
