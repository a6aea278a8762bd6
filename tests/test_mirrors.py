"""One truth in several languages: what is named in csrc/math is in the reference (and in triton, where that exists),
and the numbers that both sides of a boundary rely on are the same."""

import dataclasses
import importlib
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from cases import LOSSES, build

from fastloss import _library, _ops, compound, spec
from fastloss.reference import activation, label, pointwise, region, topk

ROOT = Path(__file__).resolve().parent.parent
MATH = ROOT / "csrc" / "math"
pytestmark = pytest.mark.skipif(not MATH.exists(), reason="not in a source tree")


def text(name):
    return (MATH / name).read_text(encoding="utf-8")


def enum(name, values):
    """The names of a C++ enum in order."""
    body = re.search(rf"enum {values} {{([^}}]*)}}", text(name)).group(1)
    return [word.strip() for word in body.split(",") if word.strip()]


def constant(name, symbol):
    return int(re.search(rf"\b{symbol} = (\d+)", text(name)).group(1))


def functions(name):
    return set(re.findall(r"^FL_HD .*?(\w+)\(", text(name), re.MULTILINE))


def public(module):
    """Functions that a module defines itself."""
    return {n for n, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__ and n[0] != "_"}


def camel(*words):
    return "k" + "".join(word.capitalize() for word in words)


def test_every_pointwise_term_has_f_and_its_derivative_and_a_mirror():
    ours = functions("pointwise.h")
    with_derivative = {name for name in ours if f"{name}_grad" in ours}
    assert with_derivative == public(pointwise)
    assert {name.removesuffix("_grad") for name in ours if name.endswith("_grad")} == with_derivative


MIRRORED = {
    ("activation.h", activation): ("sigmoid", "softmax"),
    ("label.h", label): ("label_tolerance", "clamp_label"),
    ("region.h", region): ("tversky_score", "region_loss"),
    ("finalize.h", region): ("region_term",),
    ("topk.h", topk): ("topk_count", "topk_select"),
}


@pytest.mark.parametrize("header,module", MIRRORED, ids=lambda v: getattr(v, "__name__", v))
def test_the_other_functions_have_a_mirror(header, module):
    for name in MIRRORED[header, module]:
        assert any(f == name or f.startswith(f"{name}_") for f in functions(header)), f"{name} is not in {header}"
        assert name in public(module), f"{name} is not in {module.__name__}"
    listed = {name for (_, m), names in MIRRORED.items() if m is module for name in names}
    inner = {"class_loss", "constants"}  # steps of region_term that C++ takes inline
    assert public(module) <= listed | inner, "a function of the reference that this table does not know"


def test_triton_mirrors_every_term():
    folder = ROOT / "fastloss" / "triton"
    if not folder.exists():
        pytest.skip("no triton kernels yet")
    found = set()
    for file in folder.glob("*.py"):
        found |= set(re.findall(r"^def (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE))
    wanted = public(label) | public(pointwise) | {f"{name}_grad" for name in public(pointwise)}
    assert wanted <= found, f"not in fastloss/triton: {sorted(wanted - found)}"


def test_kinds_and_settings_have_the_same_numbers():
    assert enum("spec.h", "TermKind") == [*[camel(kind) for kind in spec.KINDS], "kTermKinds"]
    assert enum("spec.h", "Reduction") == [camel(name) for name in spec.REDUCTIONS]
    assert enum("spec.h", "EmptyRule") == [camel("empty", name) for name in spec.EMPTY]
    assert enum("spec.h", "Activation") == ["kSigmoid", "kSoftmax"]


def test_layouts_have_the_same_sizes():
    assert constant("spec.h", "kEncodingVersion") == spec.ENCODING_VERSION
    assert constant("spec.h", "kMaxTerms") == compound.MAX_TERMS
    assert constant("spec.h", "kHeaderInts") == _ops.HEADER_INTS
    assert constant("spec.h", "kTermInts") == _ops.TERM_INTS
    ints, floats = build("binary:dice+focal").spec.encode(1)
    assert len(ints) == _ops.HEADER_INTS + 2 * _ops.TERM_INTS
    assert len(floats) == 2 * constant("spec.h", "kTermFloats")
    columns = enum("sums.h", "SumColumn")
    assert columns.index("kFixedSums") == _ops.FIXED_SUMS == len(columns) - 1
    assert enum("sums.h", "AuxColumn").index("kAuxColumns") == _ops.AUX_COLUMNS
    names = {"kValid": "VALID", "kInter": "PY", "kPred": "P", "kTarget": "Y", "kPredSq": "PP", "kTargetSq": "YY"}
    names["kAbsDiff"] = "L1"
    for position, column in enumerate(columns[:-1]):
        assert getattr(region, names[column]) == position
    assert re.search(rf"t\.batch = a\[{_ops.BATCH_FIELD}\]", text("spec.h"))
    wants = (ROOT / "csrc" / "ops" / "ops.h").read_text(encoding="utf-8")
    assert f"kWantGrad = {_ops.WANT_GRAD}, kWantCounts = {_ops.WANT_COUNTS}" in wants


@pytest.mark.skipif(_library.load() is None, reason=f"no extension: {_library.reason()}")
def test_the_built_extension_is_of_this_source():
    extension = _library.load()
    assert extension.encoding_version == spec.ENCODING_VERSION
    assert extension.max_terms == compound.MAX_TERMS
    for name in public(pointwise):
        assert {f"{name}_f32", f"{name}_f64"} <= set(dir(extension.terms)), f"no test hook for {name}"


CHANGED = {
    "kind": "bce", "weight": 2.0, "weight_index": 0, "reduction": "sum", "gamma": 3.0, "alpha": 0.1, "beta": 0.9,
    "smooth": 1.0, "eps": 1e-3, "label_smoothing": 0.1, "k": Fraction(1, 3), "log_loss": True, "squared": True,
    "l1": True, "batch": False, "empty": "skip", "vector": (1.0, 2.0, 3.0), "classes": (0, 2),
    "margin": True,
}  # fmt: skip


def test_every_field_of_a_term_is_encoded():
    """A setting that does not cross the boundary would be ignored in silence."""
    plain, smoothed = spec.Term("tversky"), spec.Term("ce")  # only some kinds take a smoothing
    assert set(CHANGED) == {field.name for field in dataclasses.fields(spec.Term)}
    seen = [spec.Spec("multiclass", (term,)).encode(3) for term in (plain, smoothed)]
    for name, value in CHANGED.items():
        term = dataclasses.replace(smoothed if name == "label_smoothing" else plain, **{name: value})
        seen.append(spec.Spec("multiclass", (term,)).encode(3))
    seen.append(spec.Spec("multiclass", (plain,), ignore_index=0).encode(3))
    seen += [spec.Spec(mode, (plain,)).encode(3) for mode in ("binary", "multilabel")]
    assert len({(tuple(ints), tuple(floats)) for ints, floats in seen}) == len(seen)


def test_every_kind_is_among_the_tested_losses():
    tested = {term.kind for name in LOSSES for term in build(name).spec.terms}
    assert tested == set(spec.KINDS)


def test_every_backend_of_the_ops_table_has_all_ops():
    for backend in _ops.BACKENDS:
        for name in _ops.SCHEMAS:
            assert hasattr(getattr(torch.ops, f"fastloss_{backend}"), name)
    assert set(_ops.FAKES) == set(_ops.SCHEMAS)


def test_the_core_never_imports_the_trainer():
    core = [file for file in (ROOT / "fastloss").glob("*.py") if file.name not in ("cli.py", "__main__.py")]
    for file in [*core, *(ROOT / "fastloss" / "reference").glob("*.py")]:
        imports = re.findall(r"^\s*(?:from|import) (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        # fuse is public, and imports no peer
        outer = "train|bench" if file.name == "__init__.py" else "train|bench|compat"
        assert not [line for line in imports if re.search(rf"\b({outer})\b", line)], file.name
    assert importlib.import_module("fastloss").__all__ == sorted(importlib.import_module("fastloss").__all__)
