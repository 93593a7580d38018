# SPDX-License-Identifier: Apache-2.0
#
# A few known workloads, counted. The main Makefile includes this.

.PHONY: demo
demo: build run-packages ## Start a few known containers, the exporter and Prometheus until Ctrl-C (root)
	@tools/system-packages.sh demo/packages.txt
	@tools/unpack-prometheus.sh .tools
	@if [[ $$EUID == 0 ]]; then exec $(BIN)/python -m demo $(ARGS); \
	elif command -v sudo >/dev/null; then exec sudo $(BIN)/python -m demo $(ARGS); \
	else echo 'Containers need root, and there is no sudo. As root: $(BIN)/python -m demo' >&2; exit 1; fi
