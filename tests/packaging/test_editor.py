"""What an editor shows and a type checker refuses, by pyright: signatures, words of arguments, docstrings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyright")
ROOT = Path(__file__).resolve().parents[2]
SOURCE = """\
import torch
import fastloss
from fastloss import functional
from fastloss.compat import monai, smp

x = torch.zeros(1, 1, 2, 2)
"""
FINE = [
    "fastloss.DiceLoss('multiclass', classes=[1], empty='score', smooth=1.0, soft='l1', backend='cpu')",
    "fastloss.FocalLoss()(x, x, mask=x > 0)",
    "functional.dice_loss(x, x, 'binary', mask=x > 0, smooth=1.0)",
    "functional.stats(x, x, mode='multilabel').dice()",
    "monai.DiceLoss(True, False, True, False, None, False, False, 'mean', 0.0, 0.0, True, [1.0], strict=False)",
    "monai.MaskedDiceLoss(sigmoid=True, weight=2.0)(x, x, x)",
    "fastloss.LossSchedule.on_plateau(fastloss.DiceLoss(), fastloss.DiceLoss(), mode='min')",
]
WRONG = {
    "fastloss.DiceLoss(bogus=1)": "bogus",
    "fastloss.DiceLoss('binary', 1.0)": "positional",
    "fastloss.DiceLoss('ternary')": "ternary",
    "fastloss.BCEWithLogitsLoss('multiclass')": "multiclass",
    "fastloss.FocalLoss(reduction='average')": "average",
    "fastloss.TopKLoss(reduction='none')": "none",
    "fastloss.DiceLoss(soft='hard')": "hard",
    "fastloss.DiceLoss(empty='one')": "one",
    "fastloss.DiceLoss(backend='gpu')": "gpu",
    "functional.dice_loss(x, x, bogus=1)": "bogus",
    "functional.tversky_loss(x, x, 'ternary')": "ternary",
    "functional.focal_loss(x, x, reduction='average')": "average",
    "functional.topk_loss(x, x, k='1')": "k",
    "functional.stats(x, x, backend='gpu')": "gpu",
    "monai.DiceLoss(bogus=1)": "bogus",
    "monai.MaskedDiceLoss(ignore_index=1)": "ignore_index",
    "monai.DiceCELoss(jaccard='yes')": "yes",
    "fastloss.DeepSupervisionLoss(fastloss.DiceLoss(), interpolation='bilinear')": "bilinear",
}
HOVERS = {
    "fastloss.DiceLoss": ("mode:", "smooth: float = 0", "class_weights: one for each channel"),
    "fastloss.LossSchedule": ("stages:", "pairs (first epoch, loss)"),
    "fastloss.CompoundLoss": ("terms:", "pairs (weight, loss)"),
    "functional.dice_loss": ("smooth: float = 0", "mask: Tensor | None", "Return the soft Dice loss"),
    "monai.DiceLoss": ("squared_pred: bool = False", "jaccard"),
    "smp.DiceLoss": ("from_logits: bool = True", "names"),
}


@pytest.fixture(scope="module", autouse=True)
def _pyright_runs():
    """It fetches its own program once, which takes a network."""
    out = subprocess.run([sys.executable, "-m", "pyright", "--version"], capture_output=True, text=True)
    if out.returncode:
        pytest.skip(f"pyright cannot run: {out.stderr.strip()[-200:]}")


def environment(folder):
    """pyright sees this source tree, wherever fastloss is installed."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)], "pythonVersion": "3.10"}))
    return {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}


def test_a_type_checker_takes_what_is_right_and_refuses_what_is_wrong(tmp_path):
    lines = [*FINE, *WRONG]
    (tmp_path / "use.py").write_text(SOURCE + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)]
    out = subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    first, said = SOURCE.count("\n"), {}
    for error in json.loads(out.stdout)["generalDiagnostics"]:
        said.setdefault(error["range"]["start"]["line"] - first, "")
        said[error["range"]["start"]["line"] - first] += error["message"]
    assert {lines[number]: text for number, text in said.items() if number < len(FINE)} == {}
    for number, (line, word) in enumerate(WRONG.items(), len(FINE)):
        assert word in said.get(number, "nothing"), f"{line}: {said.get(number)}"


class Server:
    """A language server, as an editor starts it."""

    def __init__(self, folder):
        code = "from pyright.langserver import entrypoint; entrypoint()"
        command = [sys.executable, "-c", code, "--stdio"]
        self.process = subprocess.Popen(
            command, env=environment(folder), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.sent = 0

    def write(self, method, params, **ids):
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **ids}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def read(self):
        length = 0
        for line in iter(self.process.stdout.readline, b"\r\n"):
            assert line, "the language server has stopped"
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return json.loads(self.process.stdout.read(length))

    def ask(self, method, params):
        self.sent += 1
        self.write(method, params, id=self.sent)
        while True:
            found = self.read()
            if found.get("id") == self.sent and "method" not in found:
                return found["result"]
            if "id" in found:  # a question of the server: the settings, which are none
                items = found.get("params", {}).get("items", [])
                answer = [{"pythonPath": sys.executable} if i.get("section") == "python" else {} for i in items]
                body = json.dumps({"jsonrpc": "2.0", "id": found["id"], "result": answer or None}).encode()
                self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
                self.process.stdin.flush()


def test_an_editor_shows_arguments_and_what_they_mean(tmp_path):
    text = SOURCE + "".join([f"{name}()\n" for name in HOVERS])
    file = tmp_path / "use.py"
    file.write_text(text)
    server = Server(tmp_path)
    try:
        folders = [{"uri": tmp_path.as_uri(), "name": "use"}]
        able = {"workspace": {"configuration": True}, "textDocument": {"hover": {"contentFormat": ["plaintext"]}}}
        server.ask("initialize", {"processId": None, "rootUri": tmp_path.as_uri(), "capabilities": able,
                                  "workspaceFolders": folders})  # fmt: skip
        server.write("initialized", {})
        document = {"uri": file.as_uri(), "languageId": "python", "version": 1, "text": text}
        server.write("textDocument/didOpen", {"textDocument": document})
        for line, (name, words) in enumerate(HOVERS.items(), SOURCE.count("\n")):
            place = {"line": line, "character": len(name) - 1}
            shown = server.ask("textDocument/hover", {"textDocument": {"uri": file.as_uri()}, "position": place})
            value = shown["contents"]["value"]
            assert not [word for word in words if word not in value], f"{name}: {value}"
            assert "internal Module state" not in value
    finally:
        server.process.kill()
        server.process.wait()
