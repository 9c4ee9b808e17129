package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Prometheus is one that watches instances twice a second. Its methods are for one goroutine.
type Prometheus struct {
	t       testing.TB
	addr    string
	targets string // file
}

// StartPrometheus starts the program at path with rules and nothing to watch, and ends it with
// the test.
func StartPrometheus(t testing.TB, path, rules string) *Prometheus {
	t.Helper()
	dir := t.TempDir()
	p := &Prometheus{t: t, addr: FreeAddr(t), targets: filepath.Join(dir, "targets.json")}
	p.Watch()
	p.file(filepath.Join(dir, "rules.yml"), rules)
	config := filepath.Join(dir, "prometheus.yml")
	p.file(config, `global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [rules.yml]
scrape_configs:
  - {job_name: walpost, file_sd_configs: [{files: [targets.json]}]}
`)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.addr)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &log, &log, 10*time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("prometheus:\n%s", &log)
		}
	})
	return p
}

func (p *Prometheus) file(name, content string) {
	p.t.Helper()
	next := name + ".next"
	err := os.WriteFile(next, []byte(content), 0o600)
	if err == nil {
		err = os.Rename(next, name)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// Watch makes it watch these addresses, and nothing else.
func (p *Prometheus) Watch(addrs ...string) {
	p.t.Helper()
	data, err := json.Marshal([]map[string][]string{{"targets": append([]string{}, addrs...)}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.file(p.targets, string(data))
}

// Firing returns the names of the alerts that fire now, sorted.
func (p *Prometheus) Firing() ([]string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+"/api/v1/alerts", nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	var answer struct {
		Status string
		Data   struct {
			Alerts []struct {
				State  string
				Labels struct{ Alertname string }
			}
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("prometheus answers %s", answer.Status)
	}
	var firing []string
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			firing = append(firing, a.Labels.Alertname)
		}
	}
	slices.Sort(firing)
	return slices.Compact(firing), nil
}
