# SPDX-License-Identifier: Apache-2.0
#
# The exporter under load and faults for a while. The main Makefile includes this.
#
#   SOAK_MINUTES=3   how long; 3 is what a CI job has time for
#   SOAK_SEED=5      the same choices again
#   SOAK_SHARED=1    others make thousands of cgroups on this host at the same time: containers that
#                    got no name (the ring was full) are no failure, as long as their checks are there

.PHONY: soak
SOAK_MINUTES ?= 30

soak: $(DONE)/dev $(DONE)/project $(OBJECT) run-packages test-packages ## Run the exporter for 30 min under load and faults; prints counts and memory (root)
	@SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m pytest tests/soak -s -q $(ARGS)
