package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Example returns a complete file, with a comment and the default of each
// setting. Loaded, it changes nothing.
func Example() ([]byte, error) {
	var doc document
	for i := range settings {
		s := &settings[i]
		comment := s.describe()
		if s.Means != "" {
			comment += " Default: " + s.Means + "."
		}
		doc.add(s, s.Default)
		doc.comment(comment)
	}
	return doc.marshal()
}

// MarkdownTable returns the table of the settings for the README.
func MarkdownTable() string {
	var b strings.Builder
	b.WriteString("| key | default | |\n|---|---|---|\n")
	for i := range settings {
		s := &settings[i]
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Key, s.shownDefault(), escapeMarkdown(s.describe()))
	}
	return b.String()
}

func (s *setting) shownDefault() string {
	switch {
	case s.Means != "":
		return escapeMarkdown(s.Means)
	case s.Default == "":
		return ""
	default:
		return "`" + strings.ReplaceAll(s.Default, "|", `\|`) + "`"
	}
}

var markdownEscaper = strings.NewReplacer("|", `\|`, "*", `\*`, "_", `\_`, "$", `\$`, "[", `\[`)

func escapeMarkdown(s string) string { return markdownEscaper.Replace(s) }

// document is a YAML file in the making. Its zero value is empty.
type document struct {
	root     yaml.Node
	sections map[string]*yaml.Node
	last     *yaml.Node // the key that was added last
}

// add puts a setting into its section and returns the node of its value.
func (d *document) add(s *setting, text string) *yaml.Node {
	section, name, ok := cutLast(s.Key)
	value := valueNode(s, text)
	d.last = &yaml.Node{Kind: yaml.ScalarNode, Value: name}
	parent := &d.root
	if ok {
		parent = d.section(section)
	} else {
		d.last.Value = section
	}
	parent.Content = append(parent.Content, d.last, value)
	return value
}

// comment writes a comment above the setting that was added last.
func (d *document) comment(text string) { d.last.HeadComment = text }

func (d *document) section(key string) *yaml.Node {
	if d.sections == nil {
		d.sections = map[string]*yaml.Node{}
	}
	if n := d.sections[key]; n != nil {
		return n
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	d.sections[key] = n
	parent, name := &d.root, key
	if outer, inner, ok := cutLast(key); ok {
		parent, name = d.section(outer), inner
	}
	parent.Content = append(parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, n)
	return n
}

// sectionStart is where an empty line makes the file easier to read.
var sectionStart = regexp.MustCompile(`\n([a-z]+:\n)`)

func (d *document) marshal() ([]byte, error) {
	d.root.Kind = yaml.MappingNode
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(&d.root); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return sectionStart.ReplaceAll(b.Bytes(), []byte("\n\n$1")), nil
}

// valueNode returns a value that is read back as text.
func valueNode(s *setting, text string) *yaml.Node {
	if s.kind != kindList {
		return textNode(text)
	}
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, item := range splitList(text) {
		n.Content = append(n.Content, textNode(item))
	}
	return n
}

// textNode is quoted where it would be read as a null.
func textNode(text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
	if n.ShortTag() == "!!null" {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}
