"""The measuring process (python -m fastloss.bench.worker, started by `process.Worker`): requests on stdin, answers on
stdout. What breaks a CUDA context, or hangs in a kernel, takes only its own worker with it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module

import torch

from fastloss.measure.peers import NotOffered


def reason(error: BaseException) -> str:
    """Write an error as one line."""
    words = str(error).strip()
    return f"{type(error).__name__}: {words.splitlines()[0][:160] if words else 'no message'}"


def main() -> int:
    # Peers print; only answers may reach the pipe.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    def tell(answer: dict) -> None:
        answers.write(json.dumps(answer) + "\n")

    tell({"doing": "starting"})
    for line in sys.stdin:
        request = json.loads(line)
        module, _, function = request.pop("do").partition(".")
        try:
            work = getattr(import_module(f"fastloss.bench.{module}"), function)
            found = work(**request, say=lambda words: tell({"doing": words}))
        except NotOffered as error:
            found = {"missing": str(error)}
        except Exception as error:  # any failure of a peer or a kernel is a result
            traceback.print_exc()
            found = {"refused": reason(error), "broken": "CUDA error" in str(error)}
        tell(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
