# SPDX-License-Identifier: Apache-2.0
"""``python -m cap_exporter``."""

from cap_exporter.cli import main

main()
