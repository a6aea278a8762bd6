"""One truth in several languages: what is named in csrc/math is in the reference (and in triton, where that exists),
and the numbers that both sides of a boundary rely on are the same."""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from cases import LOSSES, build

from fastloss import _interpolation, _library, _registry, _upsampled_cuda, describe, spec
from fastloss.reference import activation, label, overlap, pointwise, region, topk

ROOT = Path(__file__).resolve().parents[2]
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


def positions(field):
    """{name of a term's setting: its position} as parse_spec reads them from the integers `a` or the floats `f`."""
    return {name: int(at) for name, at in re.findall(rf"t\.(\w+) = [^;,]*?\b{field}\[(\d+)\]", text("spec.h"))}


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
    inner = {"class_loss", "pooled_classes"}  # steps of region_term that C++ takes inline, or never
    assert public(module) <= listed | inner, "a function of the reference that this table does not know"


def test_triton_mirrors_every_term():
    found = set()
    for file in (ROOT / "fastloss" / "triton").glob("*.py"):
        found |= set(re.findall(r"^def (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE))
    wanted = public(label) | public(pointwise) | {f"{name}_grad" for name in public(pointwise)}
    assert wanted <= found, f"not in fastloss/triton: {sorted(wanted - found)}"


def test_kinds_and_settings_have_the_same_numbers():
    assert enum("spec.h", "TermKind") == [*[camel(*kind.split("_")) for kind in spec.KINDS], "kTermKinds"]
    assert enum("spec.h", "Reduction") == [camel(name) for name in spec.REDUCTIONS]
    assert enum("spec.h", "EmptyRule") == [camel("empty", name) for name in spec.EMPTY]
    assert enum("spec.h", "Curve") == [*[camel("curve", *name.split("_")) for name in spec.CURVES], "kCurves"]
    assert enum("spec.h", "Activation") == ["kSigmoid", "kSoftmax"]


def test_layouts_have_the_same_sizes():
    assert constant("spec.h", "kEncodingVersion") == spec.ENCODING_VERSION
    assert constant("spec.h", "kMaxTerms") == spec.MAX_TERMS
    assert constant("spec.h", "kHeaderInts") == spec.HEADER_INTS
    assert constant("spec.h", "kTermInts") == spec.TERM_INTS
    assert constant("spec.h", "kTermFloats") == spec.TERM_FLOATS
    ints, floats = build("binary:dice+focal").spec.encode(1)
    assert len(ints) == spec.HEADER_INTS + 2 * spec.TERM_INTS and len(floats) == 2 * spec.TERM_FLOATS
    wants = (ROOT / "csrc" / "ops" / "ops.h").read_text(encoding="utf-8")
    assert f"kWantGrad = {spec.WANT_GRAD}, kWantCounts = {spec.WANT_COUNTS}" in wants


def test_every_reason_of_the_kernels_has_a_sentence():
    assert enum("../problem.h", "CallPath") == [camel(*name.split("_")) for name in describe.WHY_GENERAL]


@pytest.mark.parametrize(
    "layout,values,size", [(spec.SumColumn, "SumColumn", "kFixedSums"), (spec.AuxColumn, "AuxColumn", "kAuxColumns")]
)
def test_columns_have_the_same_names(layout, values, size):
    names = spec.names_of(layout)
    assert enum("sums.h", values) == [*[camel(*name.split("_")) for name in names], size]
    assert [getattr(layout, name) for name in names] == list(range(len(names)))


@pytest.mark.parametrize("layout,field", [(spec.TermInt, "a"), (spec.TermFloat, "f")])
def test_fields_of_a_term_have_the_same_places(layout, field):
    ours = {name.lower(): getattr(layout, name) for name in spec.names_of(layout)}
    theirs = positions(field)
    if field == "a":
        del theirs["vector"]  # an address, from where the vector begins in the pool
        theirs["vector_begin"] = int(re.search(r"kTermFloats \+ a\[(\d+)\]", text("spec.h")).group(1))
    assert theirs == ours and sorted(ours.values()) == list(range(len(ours)))


def test_a_term_is_encoded_in_the_order_of_its_fields():
    term = spec.Term(
        "tversky", 2.0, 3, "sum", 4.0, 5.0, 6.0, 7.0, 8.0, k=Fraction(1, 3), vector=(1.0, 2.0), empty="skip"
    )
    first = spec.Term("ce", vector=(1.0,))
    ints, floats = spec.encode(spec.Spec("multiclass", (first, term), ignore_index=-9), 2)
    assert [ints[place] for place in (spec.Header.VERSION, spec.Header.ACTIVATION)] == [spec.ENCODING_VERSION, 1]
    assert ints[spec.Header.HAS_IGNORE] == 1 and ints[spec.Header.IGNORE_INDEX] == -9
    assert ints[spec.Header.BINARY] == 0 and ints[spec.Header.TERMS] == 2
    own = ints[spec.HEADER_INTS + spec.TERM_INTS :]
    found = {name: own[getattr(spec.TermInt, name)] for name in spec.names_of(spec.TermInt)}
    assert found == {
        "KIND": spec.KINDS.index("tversky"), "WEIGHT_INDEX": 3, "REDUCTION": 1, "CURVE": 0, "SQUARED": 0, "L1": 0,
        "EMPTY": 1, "BATCH": 1, "K_NUM": 1, "K_DEN": 3, "VECTOR_BEGIN": 1, "VECTOR_LENGTH": 2,
        "CROSSED": 0,
    }  # fmt: skip
    own = floats[spec.TERM_FLOATS : 2 * spec.TERM_FLOATS]
    found = [own[getattr(spec.TermFloat, name)] for name in ("WEIGHT", "GAMMA", "ALPHA", "BETA", "SMOOTH", "EPS")]
    assert found == [2.0, 4.0, 5.0, 6.0, 7.0, 8.0]


@pytest.mark.skipif(_library.load() is None, reason=f"no extension: {_library.reason()}")
def test_the_built_extension_is_of_this_source():
    extension = _library.load()
    assert extension.encoding_version == spec.ENCODING_VERSION
    assert extension.max_terms == spec.MAX_TERMS
    for name in public(pointwise):
        assert {f"{name}_f32", f"{name}_f64"} <= set(dir(extension.terms)), f"no test hook for {name}"


CHANGED = {
    "kind": "bce",
    "weight": 2.0,
    "weight_index": 0,
    "reduction": "sum",
    "gamma": 3.0,
    "alpha": 0.1,
    "beta": 0.9,
    "smooth": 1.0,
    "eps": 1e-3,
    "label_smoothing": 0.1,
    "k": Fraction(1, 3),
    "curve": "root",
    "squared": True,
    "l1": True,
    "batch": False,
    "empty": "skip",
    "vector": (1.0, 2.0, 3.0),
    "classes": (0, 2),
    "margin": True,
    "crossed": True,
}
OF_PYTORCH = {"kappa"}  # read by what PyTorch finishes  # fmt: skip


def test_every_field_of_a_term_is_encoded():
    """A setting that does not cross the boundary would be ignored in silence."""
    plain, smoothed = spec.Term("tversky"), spec.Term("ce")  # only some kinds take a smoothing
    assert {*CHANGED, *OF_PYTORCH} == {field.name for field in dataclasses.fields(spec.Term)}
    seen = [spec.Spec("multiclass", (term,)).encode(3) for term in (plain, smoothed)]
    for name, value in CHANGED.items():
        term = dataclasses.replace(smoothed if name == "label_smoothing" else plain, **{name: value})
        seen.append(spec.Spec("multiclass", (term,)).encode(3))
    seen.append(spec.Spec("multiclass", (plain,), ignore_index=0).encode(3))
    seen += [spec.Spec(mode, (plain,)).encode(3) for mode in ("binary", "multilabel")]
    assert len({(tuple(ints), tuple(floats)) for ints, floats in seen}) == len(seen)


def test_every_kind_is_among_the_tested_losses():
    tested = {term.kind for name in LOSSES for term in build(name).spec.terms}
    apart = {"boundary", "wasserstein"}  # other targets: tests/core/test_boundary.py and test_wasserstein.py
    assert tested | apart == {*spec.KINDS, *spec.SUMMED_KINDS} and not tested & apart


def test_every_summed_kind_has_its_function():
    assert {*overlap.BY_CLASS, "generalized_dice"} == set(spec.SUMMED_KINDS)
    assert not {*spec.KINDS} & {*spec.SUMMED_KINDS}


def test_every_backend_of_the_ops_table_has_all_ops():
    for backend in _registry.BACKENDS:
        for name in _registry.SCHEMAS:
            assert hasattr(getattr(torch.ops, f"fastloss_{backend}"), name)
    assert set(_registry.FAKES) == set(_registry.SCHEMAS)


def test_interpolation_modes_have_the_same_numbers():
    names = [camel("interpolate", *mode.split("-")) for mode in _interpolation.MODES[:3]]
    assert enum("interpolate.h", "Interpolation") == names
    assert _interpolation.MODES[_interpolation.NEAREST_EXACT] == "nearest-exact"


@pytest.mark.parametrize("name", LOSSES)
def test_a_spec_survives_its_encoding(name):
    ints, floats = build(name).spec.encode(3)
    decoded = spec.decode(tuple(ints), tuple(floats))
    assert decoded.encode(3) == (ints, floats) and decoded.mode == name.partition(":")[0]


def test_what_a_tile_takes():
    found = re.search(r"kTileClasses = (\d+), kTileRatio = (\d+)", (ROOT / "csrc/cuda/problem.h").read_text())
    assert [int(n) for n in found.groups()] == [_upsampled_cuda._CLASSES, _upsampled_cuda._RATIO]
