"""The command line: exit status 0 only on success, and errors of one sentence without a traceback."""

import json
import os
import subprocess
import sys

import pytest

from fastloss import cli


def run(*words, **environment):
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-m", "fastloss", *words], capture_output=True, text=True, env=env)


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


def test_help_names_every_command_and_exits_with_0():
    done = run("--help")
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert f"\n  {name}" in done.stdout


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: fastloss {name}")


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_an_unknown_option_is_one_line_and_status_2(name):
    done = run(name, "--nonsense")
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_line(done.stderr, f"fastloss {name}: ", "--nonsense")


@pytest.mark.parametrize("words", [[], ["trian"], ["--nonsense"]])
def test_a_missing_or_unknown_command_is_one_line_and_status_2(words):
    done = run(*words)
    assert done.returncode == 2
    assert_one_line(done.stderr, "fastloss: ")


def test_version():
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("fastloss ")


def test_doctor_json_is_one_object():
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fastloss"]


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
