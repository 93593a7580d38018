# SPDX-License-Identifier: Apache-2.0
#
# The exporter against a real kube-apiserver and the kubelet's port-forward, built from their Go
# modules, with Debian's etcd. The main Makefile includes this. Not part of `make test`: building takes minutes.

.PHONY: test-k8s
APISERVER := .tools/bin/kube-apiserver
KUBELET := .tools/bin/kubelet-port-forward

test-k8s: $(DONE)/dev $(DONE)/project $(OBJECT) $(APISERVER) $(KUBELET) run-packages test-packages ## Run the pod tests against a real kube-apiserver (root, Go)
	@tools/system-packages.sh tests/k8s/packages.txt
	@CI=true $(BIN)/python -m pytest tests/k8s $(ARGS) # what is missing is a failure here

$(APISERVER) $(KUBELET): $(wildcard tests/k8s/apiserver/*.go tests/k8s/apiserver/*/*.go tests/k8s/apiserver/go.*)
	@command -v go >/dev/null || { echo 'Building kube-apiserver takes Go: https://go.dev/dl/' >&2; exit 1; }
	@echo 'Building $(@F) (the first time fetches its Go modules; some minutes)'
	@mkdir -p $(@D)
	@cd tests/k8s/apiserver && go build -buildvcs=false -o $(CURDIR)/$@ \
		$(if $(filter $(KUBELET),$@),./kubelet,.)
