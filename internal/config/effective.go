package config

import (
	"encoding/json"
	"strconv"
)

// Effective is the configuration as it may be shown: each setting, in the order
// of the README's table, with its secrets masked.
type Effective []Value

// Value is what a setting has.
type Value struct {
	Key string

	// Text is the value as it was written, a list separated by commas, a
	// secret masked.
	Text string

	Source Source

	setting *setting
}

// Effective returns what c was made from. It holds no secret, and nothing that
// was read from a mounted one.
func (c Config) Effective() Effective { return c.effective }

// YAML returns a file with the same effect, but for the secrets, each value
// with a comment that says where it comes from.
func (e Effective) YAML() ([]byte, error) {
	var doc document
	for _, v := range e {
		doc.add(v.setting, v.Text).LineComment = string(v.Source)
	}
	return doc.marshal()
}

// MarshalJSON returns an object with the value and the source of each key.
func (e Effective) MarshalJSON() ([]byte, error) {
	type value struct {
		Value  any    `json:"value"`
		Source Source `json:"source"`
	}
	object := make(map[string]value, len(e))
	for _, v := range e {
		object[v.Key] = value{v.native(), v.Source}
	}
	return json.Marshal(object)
}

// native returns the value as JSON has it: a boolean, a number, an array or
// text.
func (v Value) native() any {
	switch v.setting.kind {
	case kindBool:
		return v.Text == "true"
	case kindInt:
		n, _ := strconv.Atoi(v.Text) // Load has read it before
		return n
	case kindList:
		return append([]string{}, splitList(v.Text)...)
	default:
		return v.Text
	}
}
