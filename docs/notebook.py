"""Runs the tutorial's cells and stores what they show: `python docs/notebook.py`. Needs no Jupyter."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TUTORIAL = Path(__file__).resolve().parent / "tutorial.ipynb"


def run(cells: list[dict]) -> list[list[dict]]:
    """The outputs of each cell: what it printed, its last expression, its figures. An error in a cell is raised."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            found.append(_outputs("".join(cell["source"]), f"cell {number + 1}", names))
        else:
            found.append([])
    return found


def _outputs(source: str, title: str, names: dict[str, Any]) -> list[dict]:
    tree, last = ast.parse(source), None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";"):
        last = ast.Expression(tree.body.pop().value)
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, title, "exec"), names)
        if last is not None:
            value = eval(compile(last, title, "eval"), names)
    outputs = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        outputs.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data})
    for number in plt.get_fignums():
        image = io.BytesIO()
        plt.figure(number).savefig(image, dpi=90, facecolor="white", metadata={"Software": None})
        data = {"image/png": base64.b64encode(image.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    plt.close("all")
    return outputs


def _lines(text: str) -> list[str]:
    return text.rstrip("\n").splitlines(keepends=True)


def main() -> None:
    content = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    for cell, outputs in zip(content["cells"], run(content["cells"])):
        if cell["cell_type"] == "code":
            cell["outputs"] = outputs
    TUTORIAL.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
