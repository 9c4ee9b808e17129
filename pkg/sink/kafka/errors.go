package kafka

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// ErrClosed is what a closed sink answers.
var ErrClosed = errors.New("kafka: sink is closed")

// outages are errors that an operator's hand, or time, can mend, and that the
// client library takes for final. It would fail everything that waits for the
// partition, while records handed over right after that would pass: a key's
// order would be lost. Marked as retriable they are held and repeated in order
// by the library itself. The mark is on the library's own variables and so
// holds for the whole process.
var outages = []*kerr.Error{
	kerr.TopicAuthorizationFailed,
	kerr.ClusterAuthorizationFailed,
	kerr.SaslAuthenticationFailed,
	kerr.UnsupportedSaslMechanism,
	kerr.IllegalSaslState,
	kerr.UnknownServerError,
}

func init() {
	for _, e := range outages {
		e.Retriable = true
	}
}

// isForbidden reports whether a right is lacking.
func isForbidden(err error) bool {
	return errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) ||
		errors.Is(err, kerr.TransactionalIDAuthorizationFailed)
}

// fetchError returns the first error of a fetch that does not pass by itself. A
// client that keeps retriable errors gives those that do, too: a right that is
// lacking is among them, see outages.
func fetchError(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		if !kerr.IsRetriable(e.Err) || isForbidden(e.Err) {
			return e.Err
		}
	}
	return nil
}

// refusals are answers to a batch that no retry can change. They name no record:
// the batch is sent again in smaller ones until one holds the culprit alone.
// https://kafka.apache.org/protocol#protocol_error_codes
var refusals = []error{
	kerr.MessageTooLarge,
	kerr.RecordListTooLarge,
	kerr.InvalidRecord,
	kerr.InvalidTimestamp,
	kerr.InvalidTopicException,
	kerr.InvalidRequiredAcks,
	kerr.PolicyViolation,
	kerr.UnsupportedVersion,
	kerr.UnsupportedForMessageFormat,
	kerr.UnsupportedCompressionType,
}

func isRefusal(err error) bool {
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

// passes reports whether a batch that was failed with err may be taken when a new
// client sends it: what was damaged on its way is damaged no more, and a topic
// that was created again is another.
func passes(err error) bool {
	return errors.Is(err, kerr.CorruptMessage) || errors.Is(err, kerr.UnknownTopicID)
}

// refused is the error of a record that the broker has refused for err in a
// batch of its own.
func refused(topic string, size int, err error) error {
	if errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) {
		return cdc.Poison(cdc.PoisonOversize, "record takes %d bytes, and topic %s takes fewer: %w", size, topic, err)
	}
	return cdc.Poison(cdc.PoisonRefused, "topic %s: the broker refused the record: %w", topic, err)
}

// errNewClient spoils a transaction in which a topic has turned out to take other
// batches than the client library knows: it must be replaced, with a new
// transaction.
var errNewClient = errors.New("kafka: what is known about a topic has changed, beginning a new transaction")

// fenced makes a [cdc.ErrFenced] of an answer that says that somebody else has taken
// the transactional id over, or that the coordinator has aborted the transaction
// for its age, and raised its epoch on its own: both are the same to a broker.
func fenced(err error) error {
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.InvalidTxnState) {
		return &abortedError{err}
	}
	return err
}

// abortedError is a [cdc.ErrFenced].
type abortedError struct{ err error }

func (e *abortedError) Error() string {
	return "the cluster has ended the transaction, which was open for longer than kafka.transaction_timeout, or of a process that another has taken over from: " + e.err.Error()
}

// Is implements what [errors.Is] asks for.
func (e *abortedError) Is(target error) bool { return target == cdc.ErrFenced }

// Unwrap returns the answer.
func (e *abortedError) Unwrap() error { return e.err }

const (
	hintNoTopic   = "create the topic, or set kafka.create_topics"
	hintTopicGone = "the topic was deleted: create it again"
)

// hints are what to do about an error, by what the error says. Some reach us
// only as text, in a log line of the client library.
var hints = []struct {
	err  *kerr.Error
	hint string
}{
	{kerr.UnknownTopicOrPartition, hintNoTopic},
	{kerr.UnknownTopicID, hintTopicGone},
	{kerr.TopicAuthorizationFailed, "allow the user to write the topic, and to read it if it is that of the checkpoints or of the dead letters"},
	{kerr.ClusterAuthorizationFailed, "allow the user to write idempotently: IDEMPOTENT_WRITE on the cluster, or WRITE on a topic"},
	{kerr.TransactionalIDAuthorizationFailed, "allow the user to write the transactional id, which begins with " + transactionPrefix},
	{kerr.InvalidTransactionTimeout, "lower kafka.transaction_timeout to at most the brokers' transaction.max.timeout.ms"},
	{kerr.SaslAuthenticationFailed, "check kafka.sasl"},
	{kerr.UnsupportedSaslMechanism, "check kafka.sasl.mechanism"},
	{kerr.IllegalSaslState, "check kafka.sasl"},
	{kerr.NotEnoughReplicas, "bring the topic's replicas back, or lower its min.insync.replicas"},
	{kerr.NotEnoughReplicasAfterAppend, "bring the topic's replicas back, or lower its min.insync.replicas"},
	{kerr.InvalidReplicationFactor, "set kafka.replication_factor to at most the number of brokers"},
	{kerr.InvalidConfig, "create the topic by hand, with settings that the cluster takes"},
	{kerr.CorruptMessage, "look for what damages data between here and the brokers"},
	{kerr.PolicyViolation, "create the topic by hand, as the cluster's policy wants it"},
}

func hintFor(err error) string {
	for _, h := range hints {
		if errors.Is(err, h.err) || strings.Contains(err.Error(), h.err.Message) {
			return h.hint
		}
	}
	return cmp.Or(certificateHint(err), "check kafka.brokers, kafka.tls and the brokers themselves")
}

// certificateHint says what to do about a handshake in which one side has not taken
// the other's certificate. It is empty for any other error.
func certificateHint(err error) string {
	var (
		refused *tls.CertificateVerificationError
		name    x509.HostnameError
		alert   *net.OpError
	)
	switch {
	case errors.As(err, &name):
		return "set kafka.tls.server_name, or the hosts of kafka.brokers and of the brokers' listeners, to what their certificates are for"
	case errors.As(err, &refused):
		return "check kafka.tls.ca_file, and the brokers' certificates"
	case errors.As(err, &alert) && alert.Op == "remote error": // what crypto/tls calls an alert of the other side
		return "check kafka.tls.cert_file and kafka.tls.key_file: the broker ended the TLS handshake"
	}
	return ""
}
