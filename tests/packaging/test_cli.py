"""The command line: exit status 0 only on success, and errors of one sentence without a traceback."""

import json
import subprocess
import sys

import pytest
import torch

import fastloss
from fastloss import cli, doctor


def call(capsys, *words):
    """Exit status, standard output and standard error of `fastloss *words`, in this process."""
    try:
        status = cli.main(words)
    except SystemExit as stop:  # argparse leaves this way
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def command(monkeypatch):
    """A command named `probe` whose main raises what it is told to."""

    def install(error=None, status=0, extra="bench"):
        class Probe:
            __doc__ = "Probe."

            @staticmethod
            def add_arguments(parser):
                parser.add_argument("--size", type=int, default=1)

            @staticmethod
            def main(args):
                if error is not None:
                    raise error
                return status

        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("probe", extra, "a probe"))
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: Probe)

    return install


def assert_one_line(text, *parts):
    assert text.count("\n") == 1 and text.endswith("\n"), text
    for part in parts:
        assert part in text


def test_help_names_every_command_and_exits_with_0(capsys):
    status, out, _ = call(capsys, "--help")
    assert status == 0
    for name in cli.COMMANDS:
        assert f"\n  {name}" in out


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(capsys, name):
    status, out, _ = call(capsys, name, "--help")
    assert status == 0
    assert out.startswith(f"usage: fastloss {name}")


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_an_unknown_option_is_one_line_and_status_2(capsys, name):
    needed = {"predict": ("RUN", "INPUT", "--out", "DIR")}.get(name, ())
    status, out, err = call(capsys, name, *needed, "--nonsense")
    assert (status, out) == (2, "")
    assert_one_line(err, f"fastloss {name}: ", "--nonsense")


@pytest.mark.parametrize("words", [[], ["trian"], ["--nonsense"]])
def test_a_missing_or_unknown_command_is_one_line_and_status_2(capsys, words):
    status, out, err = call(capsys, *words)
    assert (status, out) == (2, "")
    assert_one_line(err, "fastloss: ")


def test_version(capsys):
    status, out, _ = call(capsys, "--version")
    assert status == 0
    assert out == f"fastloss {fastloss.__version__}\n"


def test_doctor_json_is_one_object(capsys):
    status, out, _ = call(capsys, "doctor", "--json")
    assert status == 0
    assert json.loads(out)["fastloss"] == fastloss.__version__


def test_doctor_warm_says_what_the_first_call_costs(capsys):
    runs = fastloss.backends.available()["cpu"]
    rows = doctor.warm({"cpu": runs, "cuda": "no GPU", "triton": "no GPU"}, device="cpu")
    assert len(rows) == (30 if runs is None else 0)
    assert all(row["first"] > 0 and row["second"] > 0 for row in rows)
    text = doctor.render(doctor.collect() | {"warm": rows})
    assert all(row["loss"] in text for row in rows)
    if not torch.cuda.is_available():
        status, out, _ = call(capsys, "doctor", "--warm")
        assert status == 0 and "nothing to do: no backend runs on a GPU here" in out


def test_doctor_text_names_every_backend(capsys):
    status, out, _ = call(capsys, "doctor")
    assert status == 0
    for name, why_not in fastloss.backends.available().items():
        assert f"\n  {name:<9} {'available' if why_not is None else 'not available: '}" in out


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fastloss", "trian"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr, "fastloss: ", "trian")


def test_doctor_survives_a_closed_pipe():
    script = f"{sys.executable} -m fastloss doctor | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [ValueError, OSError, cli.CommandError])
def test_bad_data_is_one_line_and_status_2(command, capsys, error):
    command(error("no such\nfile"))
    assert cli.main(["probe"]) == 2
    assert_one_line(capsys.readouterr().err, "fastloss probe: no such file")


def test_a_bug_keeps_its_traceback(command):
    command(ZeroDivisionError("oops"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


def test_traceback_on_request(command, monkeypatch):
    monkeypatch.setenv("FASTLOSS_TRACEBACK", "1")
    command(ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        cli.main(["probe"])


def test_a_missing_extra_names_the_pip_command(command, capsys):
    command(ModuleNotFoundError("No module named 'monai.losses'", name="monai.losses"))
    assert cli.main(["probe"]) == 2
    assert_one_line(capsys.readouterr().err, "monai", "pip install 'fastloss[bench]'")


def test_a_missing_module_of_our_own_is_a_bug(command):
    command(ModuleNotFoundError("No module named 'fastloss.nowhere'", name="fastloss.nowhere"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["probe"])


def test_an_interrupt_is_status_130(command, capsys):
    command(KeyboardInterrupt())
    assert cli.main(["probe"]) == 130
    assert_one_line(capsys.readouterr().err, "interrupted")


def test_the_status_of_the_command_is_the_status(command):
    command(status=3)
    assert cli.main(["probe"]) == 3


def test_the_size_must_be_a_number(command, capsys):
    command()
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--size", "big"])
    assert stop.value.code == 2
    assert_one_line(capsys.readouterr().err, "--size", "big")
