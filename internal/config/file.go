package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"go.yaml.in/yaml/v3"
)

const exampleHint = "walpost config --example prints one with all settings"

// loadFile reads the YAML file at path, which may be empty for none.
func (l *loader) loadFile(path, named string) {
	if path == "" {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		l.problems = append(l.problems, Problem{Key: named, Text: pathProblem(err), Hint: exampleHint})
		return
	}
	f := &yamlFile{path: path, values: map[string]any{}, lines: map[string]int{}, names: map[string]string{}}
	f.read(data)
	l.problems = append(l.problems, f.problems...)
	for key, line := range f.lines {
		l.origins[key] = origin{source: SourceFile, name: f.names[key], where: f.where(line)}
		l.note(f.names[key], key, f.where(line))
	}
	l.add(confmap.Provider(f.values, "."))
}

// yamlFile takes a file's settings as the text that is written there, so that
// a slot named 0123 is not a number, and with their lines. Sections may be
// nested or written with dots.
type yamlFile struct {
	path     string
	values   map[string]any    // text by key
	lines    map[string]int    // by key
	names    map[string]string // the key as written, which may be a former one, by key
	problems []Problem
}

func (f *yamlFile) where(line int) string { return f.path + ":" + strconv.Itoa(line) }

func (f *yamlFile) refuse(n *yaml.Node, key, text, hint string) {
	f.problems = append(f.problems, Problem{Key: key, Where: f.where(n.Line), Text: text, Hint: hint})
}

func (f *yamlFile) read(data []byte) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := decoder.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) { // a file of comments has no document
			f.refuseSyntax(err)
		}
		return
	}
	switch err := decoder.Decode(&next); {
	case err == nil:
		f.refuse(&next, "", "a second document begins here", "remove the line ---")
	case !errors.Is(err, io.EOF):
		f.refuseSyntax(err)
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		if root.ShortTag() != "!!null" {
			f.refuse(root, "", "is not a list of keys with values", exampleHint)
		}
		return
	}
	f.section("", root)
}

func (f *yamlFile) refuseSyntax(err error) {
	p := Problem{Where: f.path, Text: strings.TrimPrefix(err.Error(), "yaml: ")}
	var line int
	if _, scanErr := fmt.Sscanf(p.Text, "line %d:", &line); scanErr == nil {
		_, p.Text, _ = strings.Cut(p.Text, ": ")
		p.Where = f.where(line)
	}
	p.Text, p.Hint = "is not YAML: "+p.Text, exampleHint
	f.problems = append(f.problems, p)
}

// section reads the keys of a mapping.
func (f *yamlFile) section(prefix string, n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		keyNode, value := n.Content[i], n.Content[i+1]
		key := prefix + keyNode.Value
		switch s := settingOf(key); {
		case keyNode.Kind != yaml.ScalarNode || keyNode.Tag == "!!merge":
			f.refuse(keyNode, key, "is not a plain key", "write the settings out")
		case s != nil:
			f.setting(s, key, keyNode, value)
		case !isSection(key):
			f.refuse(keyNode, key, "unknown key", keyHint(key))
		case value.Kind == yaml.MappingNode:
			f.section(key+".", value)
		case value.ShortTag() != "!!null":
			f.refuse(keyNode, key, "is a section, not a setting", "its settings are "+strings.Join(keysOf(key), ", "))
		}
	}
}

// setting reads one value, whose key is written as name. A null leaves the setting unset.
func (f *yamlFile) setting(s *setting, name string, keyNode, value *yaml.Node) {
	switch first, ok := f.lines[s.Key]; {
	case ok && f.names[s.Key] == name:
		f.refuse(keyNode, name, "is set twice", "first on line "+strconv.Itoa(first))
		return
	case ok:
		f.refuse(keyNode, name, "means the same as "+f.names[s.Key]+" on line "+strconv.Itoa(first), "set "+s.Key+" only")
		return
	}
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	text, problem := scalar(value)
	switch {
	case value.Kind == yaml.SequenceNode && s.kind == kindList:
		text, problem = sequence(value)
	case value.ShortTag() == "!!null":
		return
	}
	if problem != "" {
		f.refuse(keyNode, name, problem, "")
		return
	}
	f.values[s.Key], f.lines[s.Key], f.names[s.Key] = text, keyNode.Line, name
}

// sequence returns a list as text, its items separated by commas.
func sequence(n *yaml.Node) (text, problem string) {
	items := make([]string, len(n.Content))
	for i, item := range n.Content {
		if items[i], problem = scalar(item); problem != "" {
			return "", "item " + strconv.Itoa(i+1) + " " + problem
		}
	}
	return strings.Join(items, ","), ""
}

var plainTags = []string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp"}

// scalar returns a value's text as it is written.
func scalar(n *yaml.Node) (text, problem string) {
	switch {
	case n.Kind != yaml.ScalarNode:
		return "", "takes text, not a list or a section"
	case !slices.Contains(plainTags, n.ShortTag()):
		return "", "has the tag " + n.Tag + ", which is not understood"
	}
	return n.Value, ""
}

// keysOf returns the keys of a section.
func keysOf(section string) []string {
	var keys []string
	for i := range settings {
		if strings.HasPrefix(settings[i].Key, section+".") {
			keys = append(keys, settings[i].Key)
		}
	}
	return keys
}
