# What a desk and CI run; .ci/run calls these same targets. `make help` lists them.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: build run static setup check test fuzz fuzz-list bench results bench-compare cover shape clean help
# A package whose command has another name is written package:command, one without a command package:file.
DEBIAN    := openssl python3 strace swtpm softhsm2:softhsm2-util opensc:pkcs11-tool zsh fish python3-botocore:/usr/lib/python3/dist-packages/botocore python3-cryptography-vectors:/usr/lib/python3/dist-packages/cryptography_vectors
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BUILD     := go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
FUZZTIME  := 30s
FUZZTOTAL := 86400
BENCH     := .
REF       := main
BENCHRUN   = go test -run '^$$' -bench '$(BENCH)' -benchmem ./...
BENCHSTAT := go run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

# runtime/secret erases what the standard library expands from a key; elsewhere the build works without it.
ifneq ($(filter amd64 arm64,$(shell go env GOARCH)),)
export GOEXPERIMENT := runtimesecret
endif
export GOFLAGS := $(shell go env GOFLAGS) -buildvcs=false

build: ## build bin/keyrack
	$(BUILD) -o bin/keyrack ./cmd/keyrack
run: build ## build, then show a throw-away appliance at work; Ctrl-C ends it
	@./bin/keyrack dev --demo
static: ## build bin/keyrack-static, which needs no C library
	CGO_ENABLED=0 $(BUILD) -o bin/keyrack-static ./cmd/keyrack
setup: ## install the Debian packages that the tests use, and fetch Wycheproof's vectors; nothing to do when all are there
	@go test -count=1 -run '^TestWycheproofIsThere$$' ./internal/vectors
	@need=; for p in $(DEBIAN); do command -v $${p#*:} >/dev/null || [ -e $${p#*:} ] || need+=" $${p%:*}"; done; [ "$$need" ] || exit 0; \
	as=; [ $$(id -u) = 0 ] || as=$$(command -v sudo) || { echo "run as root: apt-get install$$need"; exit 1; }; \
	$$as apt-get -q update && $$as env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $$need
check: ## gofmt, vet (also as arm64 without cgo), staticcheck, layers
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "gofmt -w these:" $$bad; exit 1; }
	go vet ./...; CGO_ENABLED=0 GOARCH=arm64 go vet ./...
	go tool staticcheck ./...
	go test ./internal/layers
test: setup ## all tests under the race detector
	go test -race -timeout 20m ./...
fuzz-list:
	@go test -list '^Fuzz' $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r dirname | sort -u) | \
	awk '/^Fuzz/ {f[n++] = $$1} /^ok/ {for (i = 0; i < n; i++) print $$2, f[i]; n = 0}' | shuf
fuzz: ## every fuzz target for FUZZTIME (30s) each, in random order, starting none after FUZZTOTAL seconds
	@$(MAKE) -s fuzz-list | while read -r p f && [ $$SECONDS -lt $(FUZZTOTAL) ]; do \
	echo "$$p $$f"; run="go test -run ^$$ -fuzz ^$$f$$ -fuzztime $(FUZZTIME) -fuzzminimizetime 1000x $$p"; \
	$$run </dev/null || $$run </dev/null; done # a finding is a seed by then and fails again; go test's own deadline does not
bench: ## all benchmarks, or those named BENCH=regexp
	$(BENCHRUN)
results: build ## measure the appliance over TLS from another process (10 minutes, quiet machine) and under attack, into bench/RESULTS.md
	go run ./bench && go run ./bench -hostile
bench-compare: ## benchmarks of REF=main against this tree, alternating, six runs each
	rm -rf bin/ref bin/ref.txt bin/new.txt; mkdir -p bin/ref; git archive $(REF) | tar x -C bin/ref
	for i in 1 2 3 4 5 6; do (cd bin/ref; $(BENCHRUN)) >>bin/ref.txt; $(BENCHRUN) >>bin/new.txt; done
	rm -rf bin/ref; $(BENCHSTAT) bin/ref.txt bin/new.txt
cover: ## coverage by function, and bin/cover.html
	mkdir -p bin; go test -coverpkg=./... -coverprofile=bin/cover.out ./...
	go tool cover -html bin/cover.out -o bin/cover.html; go tool cover -func bin/cover.out
shape: ## our measures beside those of the codebases we admire
	@go run ./internal/layers/shape
clean: ## remove what the build made
	rm -rf bin
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16
