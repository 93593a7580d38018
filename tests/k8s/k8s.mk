# SPDX-License-Identifier: Apache-2.0
#
# The exporter against a real kube-apiserver, built from its Go module, with Debian's etcd. The main
# Makefile includes this. Not part of `make test`: building takes minutes.

.PHONY: test-k8s
APISERVER := .tools/bin/kube-apiserver

test-k8s: $(DONE)/dev $(DONE)/project $(OBJECT) $(APISERVER) run-packages test-packages ## Run the pod tests against a real kube-apiserver (root, Go)
	@tools/system-packages.sh tests/k8s/packages.txt
	@CI=true $(BIN)/python -m pytest tests/k8s $(ARGS) # what is missing is a failure here

$(APISERVER): $(wildcard tests/k8s/apiserver/*)
	@command -v go >/dev/null || { echo 'Building kube-apiserver takes Go: https://go.dev/dl/' >&2; exit 1; }
	@echo 'Building kube-apiserver (the first time fetches its Go modules; some minutes)'
	@mkdir -p $(@D)
	@cd tests/k8s/apiserver && go build -buildvcs=false -o $(CURDIR)/$@ .
