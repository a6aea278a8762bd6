"""`reproduce --config` repeats a run from its JSON; what cannot be written to is told before the data are prepared."""

import json

import pytest
from paper_runs import cache, run  # noqa: F401

from fastloss.cli import main
from fastloss.train import reproduce

pytestmark = pytest.mark.usefixtures("cache")
WORDS = ("paper2", "--rows", "iou", "--focal-gamma", "1.5", "--seeds", "2")


@pytest.fixture(scope="module")
def begun(cache, tmp_path_factory):  # noqa: F811
    """A folder in which nothing is trained yet."""
    out = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce.session, "train_missing", lambda *_, **__: None)
        assert run(*WORDS, "--out", str(out)) == 0
    return out


def config(begun, folder, **changes):
    found = json.loads((begun / "reproduction.json").read_text())
    for name, value in changes.items():
        (found["settings"] if name in found["settings"] or name == "bogus" else found["command"])[name] = value
    path = folder / "edited.json"
    path.write_text(json.dumps(found))
    return path


def test_a_run_is_repeated_from_its_json_and_options_count_more(begun, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(reproduce.session, "train_missing", lambda *_, **__: None)
    path = begun / "reproduction.json"
    assert main(["reproduce", "--config", str(path), "--device", "cpu", "--out", str(tmp_path / "same")]) == 0
    before, same = (json.loads((folder / path.name).read_text()) for folder in (begun, tmp_path / "same"))
    for part in ("settings", "data", "command"):
        assert same[part] == before[part], part
    words = [
        "--rate",
        "0.5",
        "--rows",
        "bce",
        "--no-keep-weights",
        "--set",
        "size=16",
        "--out",
        str(tmp_path / "other"),
    ]
    assert main(["reproduce", "--config", str(path), "--device", "cpu", *words]) == 0
    other = json.loads((tmp_path / "other" / path.name).read_text())
    assert other["settings"] == {**before["settings"], "rate": 0.5, "keep_weights": False}
    assert other["command"] == {**before["command"], "rows": "bce", "set": ["size=16"]}


def test_the_json_of_one_training_has_the_settings_alone(begun, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(reproduce.session, "train_missing", lambda *_, **__: None)
    found = json.loads((begun / "reproduction.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"run": {}, "settings": found["settings"]}))
    words = ["--set", "size=32", "--patients", "5", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["reproduce", "--config", str(path), *words]) == 0
    again = json.loads((tmp_path / "run" / "reproduction.json").read_text())
    assert again["settings"] == found["settings"] and again["command"]["rows"] is None


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"bogus": 1}, "edited.json holds 'bogus', which this version of fastloss does not know"),
        ({"threads": 1}, "edited.json holds 'threads', which"),
        ({"rate": "fast"}, "edited.json: rate must be float, got 'fast'"),
        ({"epochs": True}, "edited.json: epochs must be int, got True"),
        ({"average": "slice"}, "edited.json: average must be image, pooled, case, got 'slice'"),
        ({"seeds": "two"}, "edited.json: seeds must be int, got 'two'"),
        ({"paper": "demo"}, "edited.json is of `fastloss demo`"),
        ({"epochs": 1}, "--epochs must be at least 2, got 1"),
    ],
)
def test_a_key_or_value_that_is_not_known_is_one_sentence(begun, tmp_path, changes, words, capfd):
    path = config(begun, tmp_path, **changes)
    assert main(["reproduce", "--config", str(path), "--out", str(tmp_path / "run")]) == 2
    told = capfd.readouterr().err
    assert words in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words,told",
    [
        (["--config", "nowhere.json"], "nowhere.json cannot be read"),
        (["paper1", "--config", "{}"], "is of paper paper2, got paper1"),
        (["--config", "{}", "--preset", "short"], "is of preset smoke, got short"),
        (["--config", "{}", "--resume", "--out", "x"], "--config cannot be named with --resume"),
    ],
)
def test_what_does_not_go_with_a_config(begun, words, told, capfd):
    path = str(begun / "reproduction.json")
    assert main(["reproduce", *[word.replace("{}", path) for word in words]]) == 2
    assert told in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_told_before_data_are_prepared(tmp_path, monkeypatch, capfd):
    def never(*_, **__):
        raise AssertionError("the data were opened")

    monkeypatch.setattr(reproduce, "open_dataset", never)
    assert main(["reproduce", "paper2", "--preset", "smoke", "--out", "/proc/x/y"]) == 2
    told = capfd.readouterr().err
    assert "/proc/x/y could not be made" in told and told.count("\n") == 1
    (tmp_path / "file").touch()
    assert main(["reproduce", "paper2", "--preset", "smoke", "--out", str(tmp_path / "file" / "y")]) == 2
    assert f"{tmp_path}/file/y could not be made" in capfd.readouterr().err
    monkeypatch.setattr(reproduce, "open_dataset", lambda *_, **__: exit(7))
    with pytest.raises(SystemExit):  # a folder that can be made is not left behind
        main(["reproduce", "paper2", "--preset", "smoke", "--out", str(tmp_path / "a" / "b")])
    assert not (tmp_path / "a").exists()
