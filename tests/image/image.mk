# SPDX-License-Identifier: Apache-2.0
#
# The images' steps without a container engine. The main Makefile includes this. Not part of
# `make test`: it fetches Debian packages and takes minutes.

.PHONY: test-image
test-image: $(DONE)/dev $(DONE)/project $(OBJECT) run-packages test-packages vm-packages ## Follow the Dockerfile over Debian roots, start the exporter from them, here and on other kernels (root)
	@tools/system-packages.sh tests/image/packages.txt
	@CI=true $(BIN)/python -m pytest tests/image -rP $(ARGS) # what is missing is a failure here
