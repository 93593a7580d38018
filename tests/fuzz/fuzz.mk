# SPDX-License-Identifier: Apache-2.0
#
# Any bytes into whatever reads bytes from outside. The main Makefile includes this; `make test` does it
# for a moment.
#
#   FUZZ_SECONDS=600   how long for each target

.PHONY: fuzz
FUZZ_SECONDS ?= 60

fuzz: $(DONE)/dev $(DONE)/project ## Feed any bytes to what reads files, servers' answers and the kernel's records; what fails is kept
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/fuzz -s -q $(ARGS)
