package config

import "strings"

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Key is what the user wrote: the file's key, the environment variable
	// or the flag with its dashes.
	Key string `json:"key"`

	// Where is the file and, if known, the line; empty for flags and
	// variables.
	Where string `json:"where,omitempty"`

	// Text says what is wrong. It never holds a secret.
	Text string `json:"text"`

	// Hint says what would be right. It may be empty.
	Hint string `json:"hint,omitempty"`
}

// String returns the problem without its hint, in one line.
func (p Problem) String() string {
	var parts []string
	for _, part := range []string{p.Where, p.Key, p.Text} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// Error is all that is wrong with the configuration.
type Error struct {
	Problems []Problem // at least one
}

// Error returns one line a problem, without the hints.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// invalidError is a value that a setting does not take.
type invalidError struct {
	text, hint string
}

func (e *invalidError) Error() string { return e.text }
