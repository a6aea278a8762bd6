"""A reproduction that takes a second: phantom slices of 32 pixels and a small network. Shared by the papers' tests."""

import os
import signal

import pytest
import torch

pytest.importorskip("lightning_fabric")
pytest.importorskip("monai")
pytest.importorskip("nibabel")
pytest.importorskip("segmentation_models_pytorch")

from fastloss.cli import main
from fastloss.train import journal, progress, session, training

SMALL = ["--preset", "smoke", "--model", "monai-unet", "--size", "32", "--set", "size=32", "--patients", "5"]
SMALL += ["--batch", "4", "--train-limit", "12", "--valid-limit", "6", "--rate", "0.003", "--threads", "1"]
SMALL += ["--device", "cpu"]  # a child of a process that has used a GPU cannot
STEPS = 3  # of an epoch


def run(*words: str) -> int:
    """`fastloss reproduce` with small settings; the exit status."""
    try:
        return main(["reproduce", *words[:1], *SMALL, *words[1:]])
    except SystemExit as stopped:
        return stopped.code


def in_child(work, environment=()) -> int:
    """Runs `work` in a forked process (nothing is imported again) and returns its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ.update(environment)
            torch.set_num_threads(1)
            status = work() or 0
        finally:
            os._exit(status)
    return child


def killed_after(steps: int, *words: str, command=run, batch: int = 4) -> None:
    """Starts a command that trains and saves after every step, and kills it in its step number `steps`."""
    read, write = os.pipe()

    class View(progress.Lines):
        def step(self, *args, **named):
            super().step(*args, **named)
            os.write(write, b".")
            if self.here >= batch * steps:
                signal.pause()

    def work() -> int:
        os.close(read)
        journal.SAVE_SECONDS, training.LOOK_STEPS = -1.0, 1
        session.watch = View
        return command(*words)

    child = in_child(work)
    os.close(write)
    seen = 0
    while seen < steps:
        told = os.read(read, 1)
        assert told, "the run ended before it was killed"
        seen += len(told)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The folder of the phantoms, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTLOSS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
