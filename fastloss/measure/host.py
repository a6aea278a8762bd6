"""What a measurement was made with beside its packages: the processor and the commit."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from pathlib import Path


def read(path: str | Path) -> str:
    """Return a small text file, stripped; "" where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def cpuinfo(key: str) -> str:
    """Return the first value of a key of /proc/cpuinfo; "" where there is none."""
    found = re.search(rf"^{key}\s*:\s*(.+)$", read("/proc/cpuinfo"), re.MULTILINE)
    return found.group(1).strip() if found else ""


def processor() -> str:
    """Return the name of the CPU, else its architecture."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def output(*words: str) -> str:
    """Return what a command prints, stripped; "" where it fails or is missing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def commit() -> str:
    """Return the commit that this code is of, with "+changes" where files differ from it; of a copy without
    history what FASTLOSS_COMMIT says, else "". A wheel installed inside of another project is not of its commit."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        return output("git", "-C", str(here.parent), *words)

    if not git("ls-files", "--error-unmatch", here.name):
        return os.environ.get("FASTLOSS_COMMIT", "")
    return git("rev-parse", "HEAD") + "+changes" * bool(git("status", "--porcelain", "--untracked-files=no"))
