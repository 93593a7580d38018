# SPDX-License-Identifier: Apache-2.0
"""The configuration is read again when asked for, or when its file changed."""

from __future__ import annotations

from pathlib import Path

from cap_exporter.config import ConfigError
from cap_exporter.reload import Reloader


def test_a_file_that_is_exchanged_as_config_maps_are_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(name)
    link = tmp_path / "..data"
    link.symlink_to("one")
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")
    reads: list[str] = []
    reloader = Reloader(path, lambda: reads.append(path.read_text()), lambda: 77.0)
    reloader.check()
    assert (reads, reloader.successful) == ([], None)
    # The kubelet makes a new link beside the old one and renames it.
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").rename(link)
    reloader.check()
    reloader.check()
    assert (reads, reloader.successful, reloader.last_success) == (["two"], True, 77.0)


def test_a_bad_file_changes_nothing_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a")

    def load() -> None:
        if path.read_text() == "bad":
            raise ConfigError("bad")

    reloader = Reloader(path, load)
    path.write_text("bad")
    reloader.check()
    assert reloader.successful is False
    path.write_text("good again")
    reloader.check()
    assert reloader.successful is True


def test_a_file_that_is_gone_for_a_moment_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a")
    reads: list[int] = []
    reloader = Reloader(path, lambda: reads.append(1))
    path.unlink()
    reloader.check()
    assert reads == []


def test_a_signal_asks_once() -> None:
    reads: list[int] = []
    reloader = Reloader(None, lambda: reads.append(1))
    reloader.ask()
    reloader.check()
    reloader.check()
    assert reads == [1]
