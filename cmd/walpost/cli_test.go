package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// Each command line gives its exit code, data on stdout and talk on stderr.
func TestRun(t *testing.T) {
	tests := []struct {
		name           string
		args, environ  []string
		code           int
		stdout, stderr string // parts
	}{
		{name: "Help", code: exitOK, stdout: "walpost [command]"},
		{name: "Version", args: []string{"version"}, code: exitOK, stdout: "walpost "},
		{name: "UnknownCommand", args: []string{"rum"}, code: exitInvalid, stderr: `walpost: unknown command "rum" for "walpost": did you mean run?`},
		{name: "UnknownFlag", args: []string{"run", "--dns", "x"}, code: exitInvalid, stderr: "did you mean --dsn?"},
		{name: "UnlikelyFlag", args: []string{"purge", "--qqqqqqqq"}, code: exitInvalid, stderr: "see walpost purge --help"},
		{name: "Exclusive", args: []string{"config", "--example", "--from-debezium", "x"}, code: exitInvalid, stderr: "hint: leave out --example, or the other: see walpost config --help"},
		{name: "UnknownSubcommand", args: []string{"dlq", "lst"}, code: exitInvalid, stderr: "did you mean list?\nwalpost: hint: walpost dlq has discard, list, retry, show\n"},
		{name: "HelpOfCommand", args: []string{"help", "dlq", "list"}, code: exitOK, stdout: "walpost dlq list"},
		{name: "HelpOfCommandWithArgument", args: []string{"help", "dlq", "show", "5"}, code: exitOK, stdout: "walpost dlq show"},
		{name: "HelpOfNothing", args: []string{"help", "rum"}, code: exitInvalid, stderr: `unknown command "rum" for "walpost": did you mean run?`},
		{name: "HelpOfNoSubcommand", args: []string{"help", "dlq", "lst"}, code: exitInvalid, stderr: "hint: walpost dlq has discard"},
		{name: "Argument", args: []string{"config", "show"}, code: exitInvalid, stderr: "hint: it has flags only, as --example, --from-debezium: see walpost config --help\n"},
		{name: "BadOutput", args: []string{"version", "-o", "xml"}, code: exitInvalid, stderr: "want text or json"},
		{name: "Example", args: []string{"config", "--example"}, code: exitOK, stdout: "publication:"},
		{name: "Masked", args: []string{"config", "--dsn", "postgres://u:hidden@h/db"}, code: exitOK, stdout: "****"},
		{name: "BadConfig", args: []string{"config"}, environ: []string{"WALPOST_KAFKA_LINGER=soon"}, code: exitInvalid, stderr: "WALPOST_KAFKA_LINGER"},
		{name: "BadTLS", args: []string{"config", "--dsn", "postgres://u:hidden@h/db?sslmode=nonsense"}, code: exitInvalid, stderr: "--dsn: cannot be used: failed to configure TLS"},
		{name: "BadTopicAmongOthers", args: []string{"config", "--outbox.topic", "${nope}", "--kafka.linger", "x"}, code: exitInvalid, stderr: "outbox.topic"},
		{name: "BadTopic", args: []string{"config", "--outbox.topic", "${nope}"}, code: exitInvalid, stderr: "outbox.topic"},
		{name: "Print", args: []string{"init", "--print", "--slot", "orders"}, code: exitOK, stdout: "'orders'"},
		{name: "Unreachable", args: []string{"checkpoint", "show", "--dsn", "host=127.0.0.1 port=1 connect_timeout=1"}, code: exitFailed, stderr: "walpost: load checkpoint"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), tt.args, tt.environ, &stdout, &stderr); code != tt.code {
				t.Errorf("exit %d, want %d\n%s", code, tt.code, stderr.String())
			}
			if !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stdout %q, want %q\nstderr %q, want %q", stdout.String(), tt.stdout, stderr.String(), tt.stderr)
			}
			if strings.Contains(stdout.String()+stderr.String(), "hidden") {
				t.Error("a secret was printed")
			}
		})
	}
}

// The flags of a command come before those that many have.
func TestHelpTellsOwnFlagsFirst(t *testing.T) {
	help := func(command string) string {
		var stdout bytes.Buffer
		if code := run(t.Context(), []string{command, "--help"}, nil, &stdout, &stdout); code != exitOK {
			t.Fatalf("exit %d\n%s", code, stdout.String())
		}
		return stdout.String()
	}
	own, settings, found := strings.Cut(help("replay"), "\nSettings, ")
	if !found || !strings.Contains(own, "--dry-run") || strings.Contains(own, "--kafka.linger") || strings.Contains(settings, "--dry-run") || !strings.Contains(settings, "--kafka.linger") {
		t.Errorf("own flags:%s\nsettings: %s", own, settings)
	}
	if text := help("version"); strings.Contains(text, "Settings, ") {
		t.Error(text)
	}
}

func TestRunJSON(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"config"}, {"init", "--print"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append(args, "--output", "json"), nil, &stdout, &stderr); code != exitOK {
			t.Errorf("%v: exit %d\n%s", args, code, stderr.String())
		}
		if !json.Valid(stdout.Bytes()) {
			t.Errorf("%v: not JSON: %s", args, stdout.String())
		}
	}
}
