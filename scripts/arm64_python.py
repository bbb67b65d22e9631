"""A Python for 64-bit ARM, with the packages that Linux gets there, for qemu-user: made once, in a cache folder.

debootstrap downloads Debian's packages for arm64, which are only unpacked: nothing of them runs but the interpreter,
and that under the emulator, so neither root nor a chroot is needed for it. Owns that folder; knows no test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.emulation import cache_folder, mirror, requirement_lines
from scripts.provision import REQUIREMENTS, SetupError, find_uv, run_command, uv_variables

SUITE = "bookworm"  # its python3 is 3.11
LISTS = ("core.txt", "embedded.txt", "torch.txt", "torch-build.txt")
_PACKAGES = "python3,libpython3.11-stdlib,libgomp1"
# Libraries ask the kernel which processor this is, and the kernel's answer is the host's. The emulator reads files in
# its own root first.
_CORE = """processor\t: {number}
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


@dataclass(frozen=True, slots=True)
class Arm64Python:
    """interpreter: its path; variables: what its processes need under the emulator."""

    interpreter: Path
    variables: Mapping[str, str]


def prepare(environ: Mapping[str, str] = os.environ) -> Arm64Python:
    """Make what is missing, in some minutes and 6 GB at first. Raises SetupError."""
    folder = cache_folder(environ, "arm64")
    root, site = folder / SUITE, folder / "site"
    requirements = requirement_lines([REQUIREMENTS / name for name in LISTS])
    for made, mark, content in ((_debian, "debian", SUITE), (_packages, "packages", "\n".join(requirements))):
        done = folder / f"{mark}.done"
        if not done.exists() or done.read_text(encoding="utf-8") != content:
            made(folder, requirements)
            done.write_text(content, encoding="utf-8")
    return Arm64Python(root / "usr/bin/python3.11", {"QEMU_LD_PREFIX": str(root), "PYTHONPATH": str(site)})


def _debian(folder: Path, _requirements: list[str]) -> None:
    root = folder / SUITE
    if shutil.which("debootstrap") is None:
        raise SetupError("debootstrap is missing: apt-get install debootstrap")
    shutil.rmtree(root, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--foreign", "--arch=arm64", "--variant=minbase", f"--include={_PACKAGES}"]
    run_command(["debootstrap", *options, SUITE, str(root), *mirror()])
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        run_command(["dpkg", "-x", str(package), str(root)])
    cores = "".join(_CORE.format(number=number) for number in range(os.cpu_count() or 1))
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(cores, encoding="utf-8")


def _packages(folder: Path, requirements: list[str]) -> None:
    site, listed = folder / "site", folder / "requirements.txt"
    shutil.rmtree(site, ignore_errors=True)
    listed.write_text("\n".join(requirements), encoding="utf-8")
    platform = ["--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.11", "--only-binary", ":all:"]
    install = [find_uv(), "pip", "install", "--quiet", "--no-deps", "--target", str(site), *platform]
    run_command([*install, "-r", str(listed)], {**os.environ, **uv_variables(os.environ)})
