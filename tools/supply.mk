# SPDX-License-Identifier: Apache-2.0
#
# What comes from others: a bill of materials, and a look at it. The main Makefile includes this.
#
#   AUDIT_ADVISORIES=skip   ask no service for known vulnerabilities: there is no network

.PHONY: sbom audit
SUPPLY := .tools/supply
SBOM := dist/cap-exporter.cdx.json

sbom: $(SBOM) ## Write dist/cap-exporter.cdx.json: what the product consists of (CycloneDX), from its lock

audit: $(SBOM) $(DONE)/dev ## Check pins, hashes and licences of what comes from others; ask for known vulnerabilities
	@$(BIN)/python tools/audit.py --sbom $(SBOM)
	@[[ '$(AUDIT_ADVISORIES)' == skip ]] || \
		$(SUPPLY)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock || \
		{ echo 'Known vulnerabilities, or not all could be asked for: AUDIT_ADVISORIES=skip makes do without' >&2; exit 1; }

# Validated against the schema when it is written. Its version is not in pyproject.toml.
$(SBOM): requirements.lock pyproject.toml cap_exporter/__init__.py $(SUPPLY)/done tools/supply.mk
	@mkdir -p $(@D)
	@version=$$($(BIN)/python -c 'import cap_exporter; print(cap_exporter.__version__)'); \
	sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml > $(SUPPLY)/pyproject.toml
	@$(SUPPLY)/bin/python -W ignore -m cyclonedx_py requirements requirements.lock \
		--pyproject $(SUPPLY)/pyproject.toml --output-reproducible --of JSON -o $@
	@echo 'Written: $@'

$(SUPPLY)/done: requirements-supply.lock | $(BIN)/python
	@echo 'Installing the Python packages that requirements-supply.lock pins'
	@$(BIN)/python -m venv --clear $(SUPPLY)
	@$(SUPPLY)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@
