# SPDX-License-Identifier: Apache-2.0
#
# The exporter against a real OpenTelemetry Collector, built from its Go modules. The main Makefile
# includes this.

.PHONY: test-otel
COLLECTOR := .tools/bin/otel-collector

test-otel: $(DONE)/dev $(DONE)/project $(OBJECT) $(COLLECTOR) run-packages test-packages ## Run the tests against a real OpenTelemetry Collector (root, Go)
	@$(BIN)/python -m pytest tests/otel $(ARGS)

$(COLLECTOR): $(wildcard tests/otel/collector/*)
	@command -v go >/dev/null || { echo 'Building the OpenTelemetry Collector takes Go: https://go.dev/dl/' >&2; exit 1; }
	@echo 'Building the OpenTelemetry Collector (the first time fetches its Go modules)'
	@mkdir -p $(@D)
	@cd tests/otel/collector && go build -buildvcs=false -o $(CURDIR)/$@ .
