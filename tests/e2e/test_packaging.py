# SPDX-License-Identifier: Apache-2.0
"""What a user installs: the source distribution, the wheel made from it, the command in it."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tools.compile_bpf import OBJECTS

ROOT = Path(__file__).resolve().parents[2]

needs_compiler = pytest.mark.needs("clang", "llvm-strip")


def hatchling(tree: Path, target: str, output: Path, **environ: str) -> Path:
    """Build ``target`` (sdist or wheel) of a source tree with the pinned hatchling."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(output)],
        cwd=tree,
        env={**os.environ, **environ},
        check=True,
        capture_output=True,
        text=True,
    )
    (built,) = output.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return built


def unpack_sdist(tree: Path, under: Path) -> Path:
    (under / "tree").mkdir()
    sdist = hatchling(tree, "sdist", under / "dist")
    subprocess.run(["tar", "-xf", str(sdist), "-C", str(under / "tree")], check=True)
    (unpacked,) = (under / "tree").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def sdist_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_sdist(ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hatchling(sdist_tree, "wheel", tmp_path_factory.mktemp("wheel"))


def test_a_source_distribution_carries_sources_and_nothing_built(sdist_tree: Path) -> None:
    assert (sdist_tree / "bpf" / "cap_checks.bpf.c").is_file()
    assert (sdist_tree / "LICENSES" / "BSD-2-Clause.txt").is_file()
    assert not (sdist_tree / "cap_exporter" / "_bpf").exists()


@needs_compiler
def test_a_wheel_serves_every_machine_and_holds_an_object_for_each(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        # ELF header: e_machine, 16 bits at offset 18; 247 is EM_BPF (elf.h).
        for name in OBJECTS:
            code = archive.read(f"cap_exporter/_bpf/{name}")
            assert code[:4] == b"\x7fELF"
            assert int.from_bytes(code[18:20], "little") == 247
            assert b".BTF.ext" in code
            assert b".debug_info" not in code
        names = archive.namelist()
    assert "cap_exporter/_bpf/cap_checks.h" in names
    assert any(name.endswith("/share/man/man1/cap-exporter.1") for name in names)
    sources = {path.name for path in (ROOT / "bpf").glob("*.bcc.c")}
    assert sources <= {Path(name).name for name in names}
    assert not [name for name in names if name.startswith(("tests/", "tools/", "benchmarks/"))]


@needs_compiler
def test_the_same_source_gives_the_same_wheel_in_another_folder(
    wheel: Path, sdist_tree: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(sdist_tree, tmp_path / "somewhere" / "else")
    shutil.rmtree(other / "cap_exporter" / "_bpf", ignore_errors=True)
    again = hatchling(other, "wheel", tmp_path / "wheel")
    assert filecmp.cmp(again, wheel, shallow=False)


@needs_compiler
def test_the_wheel_installs_a_command_that_runs(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            f"--python={python}",
            "install",
            "-q",
            "--no-deps",
            str(wheel),
        ],
        check=True,
    )
    # Its dependencies, which are installed beside the tests already; not the editable tree.
    (site,) = (environment / "lib").glob("python3*/site-packages")
    dependencies = Path(pytest.__file__).parents[1]
    done = subprocess.run(
        [environment / "bin" / "cap-exporter", "--version"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(dependencies)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("cap-exporter, version ")
    assert (site / "cap_exporter" / "_bpf" / "cap_checks.bpf.o").is_file()


def test_a_missing_compiler_is_named_with_the_package_that_has_it(
    sdist_tree: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(sdist_tree / "tools" / "compile_bpf.py")],
        env={"PATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "compile_bpf: clang is missing; it is needed to compile bpf/cap_checks.bpf.c. "
        "On Debian: apt-get install clang"
    ]


@needs_compiler
def test_a_warning_in_the_bpf_program_stops_the_build(sdist_tree: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(sdist_tree, tmp_path / "tree")
    shutil.rmtree(tree / "cap_exporter" / "_bpf", ignore_errors=True)
    with (tree / "bpf" / "cap_checks.bpf.c").open("a") as source:
        source.write("\nstatic int never_called(void)\n{\n\treturn 0;\n}\n")
    done = subprocess.run(
        [sys.executable, str(tree / "tools" / "compile_bpf.py")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "never_called" in done.stderr
    assert not list((tree / "cap_exporter" / "_bpf").iterdir())
