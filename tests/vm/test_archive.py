# SPDX-License-Identifier: Apache-2.0
"""Where packages come from, and which."""

from __future__ import annotations

import pytest

from tests.vm.archive import (
    ArchiveError,
    Mirrors,
    configured_mirrors,
    parse_depends,
    sources,
)

MIRRORS = Mirrors("http://mirror/debian/", "http://mirror/security/")


def test_mirrors_are_those_of_the_archives_whose_release_files_say_debian() -> None:
    assert (
        configured_mirrors(
            "nodistro|http://elsewhere/node/\n"
            "Debian|http://mirror/debian/\n"
            "Debian|http://other/debian/\n"
            "Debian-Security|http://mirror/security/\n"
        )
        == MIRRORS
    )


def test_a_machine_without_debian_is_told_so() -> None:
    with pytest.raises(ArchiveError, match="no Debian archive"):
        configured_mirrors("Ubuntu|http://mirror/ubuntu/\n")


def test_security_suites_come_from_the_security_mirror() -> None:
    assert sources(MIRRORS, ("trixie", "trixie-security"), None) == (
        "deb http://mirror/debian/ trixie main\ndeb http://mirror/security/ trixie-security main\n"
    )


def test_a_machine_without_security_updates_still_has_the_other_suites() -> None:
    assert "security" not in sources(
        Mirrors("http://mirror/debian/", None), ("a", "a-security"), None
    )


def test_the_first_of_alternative_dependencies_is_taken() -> None:
    assert parse_depends(
        "linux-image-amd64\n"
        "  Depends: linux-image-6.1.0-56-amd64\n"
        "linux-image-6.1.0-56-amd64\n"
        "  Depends: kmod\n"
        " |Depends: initramfs-tools\n"
        " |Depends: dracut\n"
        "  Depends: <linux-initramfs-tool>\n"
        "    dracut\n"
        "  Depends: linux-base\n"
    ) == {
        "linux-image-amd64": ["linux-image-6.1.0-56-amd64"],
        "linux-image-6.1.0-56-amd64": ["kmod", "initramfs-tools", "linux-base"],
    }
