"""The `fastloss` command. A subcommand is a module with `add_arguments(parser)` and `main(args) -> int`."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from fastloss._version import __version__


class CommandError(Exception):
    """What a command raises for bad arguments or bad data: one sentence, shown without a traceback."""


class Command(NamedTuple):
    module: str  # imported only when the command runs, so that `fastloss doctor` needs nothing but torch
    extra: str | None  # the optional dependencies that it may need
    help: str


COMMANDS = {
    "bench": Command("fastloss.bench.cli", "bench", "time the losses against other libraries"),
    "data": Command("fastloss.train.datasets.cli", "papers", "check, prepare or generate the data of the papers"),
    "demo": Command("fastloss.train.demo", "demo", "losses on 3D logits, then a small network trained on MRI slices"),
    "reproduce": Command("fastloss.train.reproduce", "papers", "train the rows of two papers' tables"),
    "report": Command("fastloss.train.report.cli", "papers", "put reproduced rows beside the papers' numbers"),
    "predict": Command("fastloss.train.predict", "papers", "write what a trained network finds in NIfTI volumes"),
    "doctor": Command("fastloss.doctor", None, "say how fastloss was built and which backends run here"),
}


class Parser(argparse.ArgumentParser):
    """argparse's parser with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `fastloss <command> …` and returns the exit status: 0 on success, 2 for bad input, 130 if interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    top = Parser(
        prog="fastloss",
        description="Fused segmentation losses for PyTorch.",
        epilog="commands:\n" + "\n".join(f"  {name:<9} {command.help}" for name, command in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fastloss {__version__}")
    top.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    # Everything after the command's name belongs to the command.
    chosen = top.parse_args(words[:1]).command
    if argv is None and chosen in ("demo", "reproduce", "predict"):
        _wait_passively()
    return _run(chosen, words[1:])


def _wait_passively() -> None:
    """Starts a command that runs networks again with OpenMP threads that sleep while they wait, unless the environment
    says how.

    On a busy machine threads that spin take the cores from each other: the demo trained on 22 images a second in place
    of 72. The policy is read when torch is loaded, which is before this line.
    """
    if os.name == "posix" and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "passive"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _run(name: str, words: list[str]) -> int:
    command, prog = COMMANDS[name], f"fastloss {name}"
    try:
        module = importlib.import_module(command.module)
        parser = Parser(prog=prog, description=(module.__doc__ or command.help).strip().partition("\n\n")[0])
        module.add_arguments(parser)
        return module.main(parser.parse_args(words))
    except ModuleNotFoundError as error:
        if command.extra is None or (error.name or "fastloss").startswith("fastloss"):
            raise
        message = f"{error.name} is not installed; run `pip install 'fastloss[{command.extra}]'`"
        return _fail(prog, message, 2, error)
    except ImportError as error:  # of a library that asks for a package of its own only when it is used (MONAI)
        if command.extra is None or (error.name or "").startswith("fastloss"):
            raise
        return _fail(prog, f"{error}; run `pip install 'fastloss[{command.extra}]'`", 2, error)
    except KeyboardInterrupt as error:
        return _fail(prog, "interrupted", 130, error)
    except BrokenPipeError:
        # `fastloss doctor | head`: the reader has left; keep the interpreter from flushing into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except CommandError as error:
        return _fail(prog, str(error), 2, error)
    except (OSError, RuntimeError, ValueError) as error:
        # Bad data mostly (no such file, a backend that cannot run here); if it is a bug, say how to see it.
        message = f"{str(error) or type(error).__name__} (FASTLOSS_TRACEBACK=1 shows where)"
        return _fail(prog, message, 2, error)


def user_path(words: str) -> Path:
    """The type of an argument that names a path: `--out=~/x` reaches us with the ~ that a shell leaves there."""
    return Path(words).expanduser()


def _fail(prog: str, message: str, status: int, error: BaseException) -> int:
    """Prints one line; FASTLOSS_TRACEBACK=1 shows where it came from."""
    if os.environ.get("FASTLOSS_TRACEBACK", "0") not in ("", "0"):
        raise error
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    return status
