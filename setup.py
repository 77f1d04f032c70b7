"""Build the native half of Ringvault: one extension per ``cext/*.pyx``.

Switches, all by environment variable, so that every installer front end can pass them:

``CEXT_ONLY=crc32c,sha256``  build only these modules (quick edits).
``CEXT_DEBUG=1``             bounds checks, asserts, no optimisation.
``CEXT_SANITIZE=address``    instrument with AddressSanitizer (run with libasan preloaded).
"""

import hashlib
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
DEBUG = os.environ.get("CEXT_DEBUG") == "1"
SANITIZE = os.environ.get("CEXT_SANITIZE", "")
ONLY = {name for name in os.environ.get("CEXT_ONLY", "").split(",") if name}

CFLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter"]
CFLAGS += ["-Wno-missing-field-initializers"]
CFLAGS += ["-Og", "-g", "-UNDEBUG"] if DEBUG or SANITIZE else ["-O3", "-g1", "-DNDEBUG"]
LDFLAGS: list[str] = []
if SANITIZE:
    CFLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"]
    LDFLAGS += [f"-fsanitize={SANITIZE}"]

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "auto_pickle": False,
    "autotestdict": False,
    "embedsignature": False,
    "boundscheck": DEBUG or bool(SANITIZE),
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": False,
}

# Generated C depends on the directives, so each set of them gets its own directory.
CYTHON_DIR = "build/cython-" + hashlib.sha256(repr(DIRECTIVES).encode()).hexdigest()[:8]


def flags_file(name: str) -> str:
    """A dependency that turns newer when the flags change: switching modes recompiles."""
    path = ROOT / "build" / "flags" / name
    wanted = repr((DIRECTIVES, CFLAGS, LDFLAGS))
    if not path.is_file() or path.read_text() != wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted)
    return str(path.relative_to(ROOT))


def extensions() -> list[Extension]:
    sources = sorted((ROOT / "cext").glob("*.pyx"))
    if unknown := ONLY - {path.stem for path in sources}:
        raise SystemExit(f"CEXT_ONLY names no cext/*.pyx: {', '.join(sorted(unknown))}")
    headers = [str(h.relative_to(ROOT)) for h in sorted((ROOT / "cext").glob("*.h"))]
    return [
        Extension(
            f"cext.{path.stem}",
            [str(path.relative_to(ROOT))],
            include_dirs=["cext"],
            depends=[*headers, flags_file(path.stem)],
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=CFLAGS,
            extra_link_args=LDFLAGS,
        )
        for path in sources
        if not ONLY or path.stem in ONLY
    ]


setup(
    ext_modules=cythonize(
        extensions(),
        compiler_directives=DIRECTIVES,
        build_dir=CYTHON_DIR,
        nthreads=0,
        show_all_warnings=False,
    ),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    zip_safe=False,
)
