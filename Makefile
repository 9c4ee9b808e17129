# `make` or `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.3.0
CYCLONEDX     := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
GORELEASER    := github.com/goreleaser/goreleaser/v2@v2.14.0
HELM          := helm.sh/helm/v3/cmd/helm@v3.22.0
BENCHSTAT     := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
TOOLS         := $(CURDIR)/bin/tools
FUZZTIME      ?= 5s
TESTFLAGS     ?=
FAULTS        ?= 100
SEED          ?=
BLOCK         ?= 0
GUARANTEE     ?= at-least-once
SHARDS        ?= 1

##@ Use

.PHONY: demo
demo: ## Run the main job with nothing installed: writes 10,000 events, reads them back, counts
	go run ./cmd/walpost demo

.PHONY: build
build: ## Build the static binary bin/walpost
	CGO_ENABLED=0 go build -trimpath -o bin/walpost ./cmd/walpost

.PHONY: image
image: ## Build the container image walpost
	docker build -t walpost .

##@ Test

.PHONY: test
test: test-unit guard test-fuzz test-integration ## Run all tests; needs nothing but Go, and uses better servers where it finds them

.PHONY: test-unit
test-unit: ## Run the packages' own tests with the race detector
	go vet ./...
	go test -race -timeout 10m $(TESTFLAGS) $$(go list ./... | grep -v /test/)

.PHONY: guard
guard: $(TOOLS)/benchstat ## Show that an event allocates no more than in test/guard/baseline.txt
	./test/guard/guard.sh

.PHONY: guard-update
guard-update: ## Make that baseline anew
	./test/guard/guard.sh -u

.PHONY: test-fuzz
test-fuzz: ## Fuzz each target for FUZZTIME
	./test/fuzz.sh $(FUZZTIME)

.PHONY: test-integration
test-integration: ## Run walpost as a process between real servers
	go test -count=1 -timeout 30m -v ./test/... # what is built in the tests is nothing that go's cache knows of

.PHONY: containers
containers: ## The image, docker-compose.yml and the tests' containers on an engine that it starts; needs root and Debian's docker.io
	test/docker/try.sh

.PHONY: compat
compat: ## Compare what walpost publishes with Debezium itself, byte by byte, in all cases
	WALPOST_TEST_REQUIRE=1 WALPOST_TEST_COMPAT=all go test -count=1 -timeout 20m -v ./test/compat

.PHONY: compat-record
compat-record: ## The same, and keep Debezium's answers for the ordinary test
	WALPOST_TEST_REQUIRE=1 WALPOST_TEST_COMPAT=all WALPOST_TEST_UPDATE=1 go test -count=1 -timeout 20m -v ./test/compat

.PHONY: alerts
alerts: ## Check the Prometheus rules, and fire each alert; needs promtool
	./test/alerts.sh

.PHONY: chart
chart: $(TOOLS)/helm ## Check the manifests and the Helm chart, with and without shards, by the types of Kubernetes' API
	$(TOOLS)/helm lint --strict deploy/helm/walpost
	cd test/manifests && go build -o $(TOOLS)/manifests .
	$(TOOLS)/manifests deploy/kubernetes/*.yaml
	helm=$$($(TOOLS)/helm template walpost deploy/helm/walpost | sed -n 's/^ *image: "\(.*\)"$$/\1/p') && \
	for f in deploy/kubernetes/*.yaml; do grep -q "image: $$helm$$" $$f || { echo "$$f: want the chart's image, $$helm" >&2; exit 1; }; done
	$(TOOLS)/helm template walpost deploy/helm/walpost | $(TOOLS)/manifests
	$(TOOLS)/helm template walpost deploy/helm/walpost --set shards=3,serviceMonitor.enabled=true,prometheusRule.enabled=true | $(TOOLS)/manifests

.PHONY: release
release: $(TOOLS)/goreleaser $(TOOLS)/cyclonedx-gomod ## Check the release's configuration, and make all of its binaries, archives, packages and SBOMs, publishing nothing
	$(TOOLS)/goreleaser check
	PATH=$(TOOLS):$$PATH $(TOOLS)/goreleaser release --snapshot --clean --skip=docker

.PHONY: proof
proof: ## The heavy promises with a million events in each shape, on real servers; prints its figures
	WALPOST_TEST_REQUIRE=1 WALPOST_TEST_EVENTS=1000000 go test -count=1 -timeout 60m -v -run 'TestMillion|TestBulkJobBeside' ./test/integration

.PHONY: operate
operate: ## The life of a deployment with EVENTS events, a million if not set: replay, purge, doctor, alerts, the page, an upgrade
	test/operate.sh

.PHONY: bounds
bounds: ## Memory under what is large, many or stuck, at full size; takes half an hour, 10 GB of disk and 4 GB of memory
	WALPOST_TEST_REQUIRE=1 WALPOST_TEST_BOUNDS=1 go test -count=1 -timeout 120m -v -run 'TestBounds' ./test/integration

.PHONY: crash
crash: ## Break everything around walpost FAULTS times, with GUARANTEE and SHARDS; SEED and BLOCK do a run again
	WALPOST_TEST_REQUIRE=1 go test -count=1 -timeout 300m -failfast -v ./test/crash -faults $(FAULTS) -guarantee "$(GUARANTEE)" -shards $(SHARDS) -block $(BLOCK) $(if $(SEED),-seed $(SEED))

.PHONY: mutants
mutants: ## Plant faults in a copy of walpost, and show that the tests see each
	./test/mutants/run.sh

.PHONY: bench
bench: ## Measure walpost beside pg_recvlogical, Debezium and a polling relay; about an hour
	go run ./test/bench

##@ Keep

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## Check the style rules
	$(TOOLS)/golangci-lint run ./...

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## Look for known vulnerabilities; needs the network
	./test/vuln.sh

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## Format all code
	$(TOOLS)/golangci-lint fmt ./...

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin dist dist-share

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) go install $(GOLANGCI_LINT)

$(TOOLS)/helm:
	GOBIN=$(TOOLS) go install $(HELM)

$(TOOLS)/govulncheck:
	GOBIN=$(TOOLS) go install $(GOVULNCHECK)

$(TOOLS)/benchstat:
	GOBIN=$(TOOLS) go install $(BENCHSTAT)

$(TOOLS)/goreleaser:
	GOBIN=$(TOOLS) go install $(GORELEASER)

$(TOOLS)/cyclonedx-gomod:
	GOBIN=$(TOOLS) go install $(CYCLONEDX)
