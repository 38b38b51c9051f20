"""The C of kernels.py, compiled when needed, for the processor that is there."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.durable import put_in_place, sync_tree

X86 = platform.machine() in ("x86_64", "AMD64")
FLAGS = (
    "-O3",
    "-march=native",
    # GCC takes half a vector for many processors that have whole ones.
    *(["-mprefer-vector-width=512"] if X86 else []),
    "-fPIC",
    "-fopenmp",
    # Sums may be taken in another order, as vectors need; infinities and NaN are kept.
    "-fassociative-math",
    "-fno-signed-zeros",
    "-fno-trapping-math",
    "-fno-math-errno",
)
COMPILE_SECONDS = 60

_log = logging.getLogger(__name__)


class _Build(NamedTuple):
    """What is compiled, and how."""

    compiler: list[str]
    flags: list[str]
    files: list[Path]


def load(files: Sequence[Path], definitions: Sequence[str]) -> ctypes.CDLL | None:
    """The functions of these files; None where they cannot be had, and a log line says why.

    CC names another GCC than `cc`; XDG_CACHE_HOME is where what it makes is kept, ~/.cache without.

    Args:
        files: C sources (.c) and what they include (.h).
        definitions: flags of these files alone, as -DNAME=1.
    """
    named = os.environ.get("CC") or "cc"
    # Without CC nobody chose a compiler, and nobody is to be warned of what `cc` cannot do.
    level = logging.WARNING if os.environ.get("CC") else logging.INFO
    try:
        compiler = shlex.split(named)
    except ValueError:  # a quote that nothing closes
        compiler = []
    if not compiler:
        _log.log(level, "CC is %r, which is no command: torch's own operations are used", named)
        return None
    if shutil.which(compiler[0]) is None:
        _log.log(level, "no C compiler %r: torch's own operations are used", compiler[0])
        return None
    try:
        return _loaded(_Build(compiler, [*FLAGS, *definitions], list(files)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or error
        _log.log(
            level,
            "%s cannot be compiled or loaded: torch's own operations are used (%s)",
            " and ".join(str(path) for path in files if path.suffix == ".c"),
            reason,
        )
        return None


def processor() -> bytes:
    """What -march=native looks at, as far as the system tells."""
    names = b"vendor_id", b"model name", b"flags", b"Features", b"CPU part"
    try:
        lines = Path("/proc/cpuinfo").read_bytes().partition(b"\n\n")[0].splitlines()
    except OSError:
        lines = []
    return b"\n".join([platform.machine().encode(), *(x for x in lines if x.startswith(names))])


def _loaded(build: _Build) -> ctypes.CDLL:
    """From the user's cache; where there is no place for one, from a file of this process."""
    try:
        return ctypes.CDLL(str(_cached(build)))
    except (OSError, RuntimeError):  # a folder that cannot be written or run from, no home
        with tempfile.TemporaryDirectory() as folder:
            return ctypes.CDLL(str(_compile(build, Path(folder) / "kernels.so")))


def _cached(build: _Build) -> Path:
    """Of these sources for this processor by this compiler; made once per user."""
    ask = [*build.compiler, "--version"]
    version = subprocess.run(ask, capture_output=True, check=True).stdout
    sources = [path.read_bytes() for path in build.files]
    command = " ".join([*build.compiler, *build.flags]).encode()
    made_of = [*sources, command, version, processor()]
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (cache_home if cache_home.is_absolute() else Path.home() / ".cache") / "rlhf"
    library = folder / f"kernels-{digest}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # of this process alone
            made = _compile(build, Path(scratch) / "kernels.so")
            sync_tree(Path(scratch))
            put_in_place(made, library)
    return library


def _compile(build: _Build, library: Path) -> Path:
    """In two steps, because linking with -fopenmp would bring a second OpenMP, and its threads."""
    objects = []
    for source in (path for path in build.files if path.suffix == ".c"):
        objects.append(str(library.with_name(source.name + ".o")))
        _run([*build.compiler, *build.flags, "-c", str(source), "-o", objects[-1]])
    _run([*build.compiler, "-shared", *objects, "-lm", "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, check=True, timeout=COMPILE_SECONDS)
