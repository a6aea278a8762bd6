"""For setup.py: FASTLOSS_GLIBC=2.28 links so that the extension loads with that glibc, and the libstdc++ of its time.

These libraries keep, beside the newest version of a function, those that older programs were linked with, but a linker
takes the newest. Here it meets images of them first: the same names without code, in the newest versions that are old
enough. What has none keeps its version, and `auditwheel repair` then takes a newer tag; csrc/compat has what g++ 12
needs.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

# What manylinux_2_28 allows, the tag of torch's own wheels.
GLIBC = "2.28"
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)}
# Libraries of their own before glibc 2.34; later systems have them too, empty.
APART = {r"pthread_|sem_": "libpthread.so.0", r"dl(m?open|v?sym|close|error)$": "libdl.so.2", "shm_": "librt.so.1"}
SYMBOL = re.compile(
    r"^\w+ .{5}D. (?P<section>\.\S+)\t\w+\s+(?P<hidden>\(?)(?P<kind>GLIBC|GLIBCXX|CXXABI)_(?P<number>[\d.]+)\)?\s+"
    r"(?P<name>\S+)$",
    re.MULTILINE,
)


def link_flags(folder: Path, cxx: list[str]) -> tuple[list[str], list[str]]:
    """Makes the images in `folder`; returns what comes first on the link line, and what comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    images: dict[str, dict[str, tuple[bool, str]]] = defaultdict(dict)
    for library in ("libstdc++.so.6", "libm.so.6", "libc.so.6"):
        listing = _run(["objdump", "-T", _run([*cxx, f"-print-file-name={library}"]).strip()])
        for name, symbol in choose(listing).items():
            apart = (home for names, home in APART.items() if library == "libc.so.6" and re.match(names, name))
            images[next(apart, library)][name] = symbol
    made = [_image(folder, cxx, library, symbols) for library, symbols in images.items()]
    own = folder / "libstdcxx.o"
    source = Path(__file__).parent / "csrc" / "compat" / "libstdcxx.c"
    _run([*cxx, "-xc", "-O2", "-fPIC", "-fexceptions", "-fno-builtin", "-c", str(source), "-o", str(own)])
    return [str(own)], ["-Wl,--as-needed", *made]


def choose(listing: str) -> dict[str, tuple[bool, str]]:
    """{name: (whether it is of each thread, version)}: the newest version that is old enough, else the default."""
    found: dict[str, tuple] = {}
    for symbol in SYMBOL.finditer(listing):
        number = tuple(map(int, symbol["number"].split(".")))
        old = number <= NEWEST[symbol["kind"]]
        if old or not symbol["hidden"]:
            choice = old, number, symbol["section"] in (".tbss", ".tdata"), f"{symbol['kind']}_{symbol['number']}"
            found[symbol["name"]] = max(found.get(symbol["name"], choice), choice)
    return {name: (threads, version) for name, (_, _, threads, version) in found.items()}


def _image(folder: Path, cxx: list[str], library: str, symbols: dict[str, tuple[bool, str]]) -> str:
    source, script, made = folder / f"{library}.s", folder / f"{library}.map", folder / library
    versions, lines = defaultdict(list), []
    for name, (threads, version) in symbols.items():
        section, kind = ('.section .tbss,"awT",@nobits', "tls_object") if threads else (".text", "function")
        lines.append(f"{section}\n.globl {name}\n.type {name}, @{kind}\n{name}: .zero 8\n.size {name}, 8\n")
        versions[version].append(f"{name};")
    source.write_text("".join(lines))
    script.write_text("".join(f"{version} {{ {' '.join(names)} }};\n" for version, names in versions.items()))
    options = ["-shared", "-nostdlib", f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"]
    _run([*cxx, *options, str(source), "-o", str(made)])
    return str(made)


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
