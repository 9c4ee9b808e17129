// Command manifests reads Kubernetes manifests, and fails for what the API of Kubernetes itself
// would not take: an unknown kind, field or type of value.
//
// Usage: manifests [FILE...], with standard input if there is none.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// foreign are the groups of the Prometheus Operator, whose types are not Kubernetes' own.
const foreign = "monitoring.coreos.com/"

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(files []string, in io.Reader, out io.Writer) error {
	s, err := strict()
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return check(s, "standard input", in, out)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := check(s, name, bytes.NewReader(data), out); err != nil {
			return err
		}
	}
	return nil
}

func strict() (*json.Serializer, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true}), nil
}

// check reads all documents of one file.
func check(s *json.Serializer, name string, in io.Reader, out io.Writer) error {
	checked, passed := 0, 0
	for r := yaml.NewYAMLReader(bufio.NewReader(in)); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var meta runtime.TypeMeta
		if err := yaml.Unmarshal(doc, &meta); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		switch {
		case meta.Kind == "":
			continue // comments only
		case strings.HasPrefix(meta.APIVersion, foreign):
			passed++
			continue
		}
		if _, _, err := s.Decode(doc, nil, nil); err != nil {
			return fmt.Errorf("%s: %s: %w", name, meta.Kind, err)
		}
		checked++
	}
	if checked == 0 {
		return fmt.Errorf("%s: no manifest", name)
	}
	_, err := fmt.Fprintf(out, "%s: %d manifests are as Kubernetes takes them, %d of other APIs were not looked at\n", name, checked, passed)
	return err
}
