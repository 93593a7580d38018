# SPDX-License-Identifier: Apache-2.0
#
# The tests on other kernels, in virtual machines without hardware virtualization. The main Makefile
# includes this.
#
#   VM_KERNELS='6.1 6.12'   only these; default: all but -rt
#   VM_ARGS='…'             more arguments for tests.vm.matrix, e.g. --attach kprobe

.PHONY: test-vm test-vm-ci vm-packages
VM_KERNELS ?=
VM_ARGS ?=

test-vm: $(DONE)/dev $(DONE)/project $(OBJECT) run-packages test-packages vm-packages ## Run the kernel tests on Debian's other kernels (root; fetches some 90 MB a kernel, once)
	@$(BIN)/python -m pytest tests/vm --ignore tests/vm/inside
	@$(BIN)/python -m tests.vm.matrix $(VM_ARGS) $(VM_KERNELS)

test-vm-ci: $(DONE)/dev $(DONE)/project $(OBJECT) run-packages vm-packages ## The same in short, as each change is tested: two kernels, the tests of ways
	@$(BIN)/python -m tests.vm.matrix --ci

vm-packages:
	@tools/system-packages.sh tests/vm/packages.txt
