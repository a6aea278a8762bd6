"""Bad input: the right type of error, one sentence, the argument's name, and nothing returned."""

import re
from collections import Counter, deque
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from cases import DEVICES, LOSSES, MODES, SHAPES, WAITS, build, logits, target

import fastloss as fl
from fastloss import functional
from fastloss.compat import WeightedSum

NAN, INF = float("nan"), float("inf")
X, Y = logits(SHAPES["binary"]), target("binary", SHAPES["binary"])
XC, YC = logits(SHAPES["multiclass"]), target("multiclass", SHAPES["multiclass"])
A, B = fl.DiceLoss("binary"), fl.BCEWithLogitsLoss()
N, SPACE = SHAPES["binary"][0], SHAPES["binary"][2:]

# What is no list with one number for each channel, in order; each argument that takes one, in class and function.
NO_VECTORS = {
    "dict": (TypeError, {0: 1.0, 1: 2.0, 2: 0.5}),
    "empty dict": (TypeError, {}),
    "counter": (TypeError, Counter([0, 1, 1, 2])),
    "set": (TypeError, {1.0, 2.0, 0.5}),
    "frozenset": (TypeError, frozenset({1.0, 2.0, 0.5})),
    "keys": (TypeError, {1.0: 0, 2.0: 1}.keys()),
    "string": (TypeError, "123"),
    "bytes": (TypeError, b"123"),
    "strings": (TypeError, ["1", "2", "3"]),
    "bools": (TypeError, [True, False, True]),
    "boolean tensor": (TypeError, torch.ones(3).bool()),
    "nested": (TypeError, [[1.0, 2.0, 3.0]]),
    "matrix": (TypeError, np.ones((1, 3))),
    "complex": (TypeError, [1j, 2.0, 3.0]),
    "none": (TypeError, [None, 1.0, 1.0]),
    "object": (TypeError, object()),
    "nan": (ValueError, [NAN, 1.0, 1.0]),
    "infinite": (ValueError, np.array([INF, 1.0, 1.0])),
    "negative": (ValueError, (-1.0, 1.0, 1.0)),
    "empty": (ValueError, []),
    "empty generator": (ValueError, (v for v in ())),
    "gradient": (ValueError, torch.ones(3, requires_grad=True)),
    "parameter": (ValueError, torch.nn.Parameter(torch.ones(3))),
    "meta": (ValueError, torch.ones(3, device="meta")),
}
TAKE_VECTORS = [
    ("class_weights", fl.CrossEntropyLoss, functional.cross_entropy_loss, "multiclass"),
    ("class_weights", fl.DiceLoss, functional.dice_loss, "multiclass"),
    ("class_weights", fl.TverskyLoss, functional.tversky_loss, "multilabel"),
    ("class_weights", fl.JaccardLoss, functional.jaccard_loss, "multilabel"),
    ("pos_weight", fl.BCEWithLogitsLoss, functional.bce_with_logits_loss, "multilabel"),
    ("alpha", fl.FocalLoss, functional.focal_loss, "multilabel"),
    ("alpha", fl.FocalLoss, functional.focal_loss, "multiclass"),
]
VECTORS = [
    (error, name, lambda cls=cls, mode=mode, name=name, bad=bad: cls(mode, **{name: bad}))
    for name, cls, _, mode in TAKE_VECTORS
    for error, bad in NO_VECTORS.values()
]
VECTORS += [
    (error, "weights", lambda bad=bad: fl.DeepSupervisionLoss(fl.DiceLoss("binary"), bad))
    for error, bad in NO_VECTORS.values()
]
NO_PAIRS = [{A: 0.5, B: 0.5}, {(0.5, A)}, "ab", 3, [A, B], [(0.5, A, B)], ["ab"], {}]
VECTORS += [(TypeError, "terms", lambda bad=bad: fl.CompoundLoss(bad)) for bad in NO_PAIRS]
VECTORS += [(TypeError, "stages", lambda bad=bad: fl.LossSchedule(bad)) for bad in ({0: A, 5: B}, *NO_PAIRS)]
VECTORS += [(TypeError, "pairs", lambda bad=bad: WeightedSum(bad)) for bad in NO_PAIRS]
NO_CLASSES = [{0: 1.0, 1: 1.0}, "01", b"01", [True, False], torch.tensor([True, False]), [[0, 1]], np.array([0.0]), 1]
VECTORS += [(TypeError, "classes", lambda bad=bad: fl.DiceLoss("multiclass", classes=bad)) for bad in NO_CLASSES]

CONSTRUCTORS = [
    (ValueError, "mode", lambda: fl.DiceLoss("tertiary")),
    (ValueError, "mode", lambda: fl.BCEWithLogitsLoss("multiclass")),
    (ValueError, "mode", lambda: fl.CrossEntropyLoss("binary")),
    (ValueError, "pos_weight", lambda: fl.BCEWithLogitsLoss(pos_weight=-1.0)),
    (ValueError, "pos_weight", lambda: fl.BCEWithLogitsLoss(pos_weight=NAN)),
    (TypeError, "pos_weight", lambda: fl.BCEWithLogitsLoss(pos_weight="much")),
    (ValueError, "label_smoothing", lambda: fl.CrossEntropyLoss(label_smoothing=1.5)),
    (TypeError, "label_smoothing", lambda: fl.CrossEntropyLoss(label_smoothing=None)),
    (ValueError, "class_weights", lambda: fl.CrossEntropyLoss(class_weights=[])),
    (ValueError, "class_weights", lambda: fl.CrossEntropyLoss(class_weights=[1.0, INF])),
    (TypeError, "class_weights", lambda: fl.CrossEntropyLoss(class_weights=torch.ones(2, 2))),
    (TypeError, "class_weights", lambda: fl.CrossEntropyLoss(class_weights=2.0)),
    *VECTORS,
    *((ValueError, "mode", lambda m=m: fl.DiceLoss(m)) for m in (["binary"], None, np.array(["binary"]), {"binary"})),
    (ValueError, "reduction", lambda: fl.BCEWithLogitsLoss(reduction=np.array(["sum"]))),
    (ValueError, "reduction", lambda: fl.BCEWithLogitsLoss(reduction="average")),
    (ValueError, "reduction", lambda: fl.TopKLoss("binary", reduction="none")),
    (ValueError, "gamma", lambda: fl.FocalLoss("binary", gamma=-0.5)),
    (TypeError, "gamma", lambda: fl.FocalLoss("binary", gamma="2")),
    (TypeError, "gamma", lambda: fl.FocalLoss("binary", gamma=True)),
    (ValueError, "alpha", lambda: fl.FocalLoss("binary", alpha=1.5)),
    (TypeError, "k must.*percent", lambda: fl.TopKLoss("binary", k=10)),
    (TypeError, "k", lambda: fl.TopKLoss("binary", k=True)),
    *((ValueError, "k must", lambda k=k: fl.TopKLoss("binary", k=k)) for k in (0.0, -0.1, 1.1, NAN)),
    (TypeError, "k", lambda: fl.TopKLoss("binary", k="0.1")),
    (ValueError, "alpha", lambda: fl.TverskyLoss("binary", alpha=-1.0)),
    (ValueError, "beta", lambda: fl.TverskyLoss("binary", beta=NAN)),
    (ValueError, "gamma", lambda: fl.TverskyLoss("binary", gamma=0.0)),
    (ValueError, "log_loss.*gamma", lambda: fl.TverskyLoss("binary", gamma=2.0, log_loss=True)),
    (ValueError, "log_loss.*curve", lambda: fl.DiceLoss("binary", curve="root", log_loss=True)),
    (ValueError, "gamma.*log_cosh.*2.0", lambda: fl.DiceLoss("binary", curve="log_cosh", gamma=2.0)),
    (ValueError, "curve.*'power'.*'cubic'", lambda: fl.JaccardLoss("binary", curve="cubic")),
    (ValueError, "gamma.*greater than 0", lambda: fl.DiceLoss("binary", gamma=0.0)),
    (ValueError, "smooth", lambda: fl.DiceLoss("binary", smooth=-1.0)),
    (ValueError, "eps", lambda: fl.DiceLoss("binary", eps=0.0)),
    (TypeError, "log_loss", lambda: fl.DiceLoss("binary", log_loss=1)),
    (TypeError, "squared", lambda: fl.DiceLoss("binary", squared="yes")),
    (ValueError, "soft", lambda: fl.DiceLoss("binary", soft="l2")),
    (TypeError, "batch", lambda: fl.DiceLoss("binary", batch=None)),
    (ValueError, "empty", lambda: fl.DiceLoss("binary", batch=False)),
    (ValueError, "empty", lambda: fl.DiceLoss("binary", empty="nan")),
    (ValueError, "empty.*smooth", lambda: fl.DiceLoss("binary", empty="score")),
    (ValueError, "classes", lambda: fl.DiceLoss("binary", classes=[0])),
    (ValueError, "class_weights", lambda: fl.DiceLoss("binary", class_weights=[1.0])),
    *((ValueError, "classes", lambda c=c: fl.DiceLoss("multiclass", classes=c)) for c in ([], [1, 1], [-1])),
    (TypeError, "classes", lambda: fl.DiceLoss("multiclass", classes=[0.5])),
    (TypeError, "classes", lambda: fl.DiceLoss("multiclass", classes=1)),
    (TypeError, "ignore_index", lambda: fl.DiceLoss("binary", ignore_index=1.0)),
    (ValueError, "ignore_index", lambda: fl.DiceLoss("binary", ignore_index=2**63)),
    (TypeError, "process_group", lambda: fl.DiceLoss("binary", process_group="all")),
    (ValueError, "backend", lambda: fl.DiceLoss("binary", backend="gpu")),
    # what is put together
    (ValueError, "mode", lambda: A + fl.DiceLoss("multilabel")),
    (ValueError, "ignore_index", lambda: A + fl.DiceLoss("binary", ignore_index=255)),
    (ValueError, "backend", lambda: A + fl.DiceLoss("binary", backend="reference")),
    (ValueError, "reduction", lambda: A + fl.BCEWithLogitsLoss(reduction="none")),
    (
        ValueError,
        "must share their process_group",
        lambda: fl.DiceLoss("binary", process_group=True) + fl.TopKLoss("binary"),
    ),
    (ValueError, "process_group", lambda: fl.DiceLoss("binary", process_group=True) + A),
    (ValueError, "weight", lambda: NAN * A),
    (ValueError, "weight", lambda: torch.ones(2) * A),
    (TypeError, "weight", lambda: torch.tensor(1) * A),
    (TypeError, "unsupported|multiply", lambda: "2" * A),
    (TypeError, "unsupported", lambda: A + 1.0),
    (ValueError, "divided", lambda: A / 0),
    (ValueError, "16", lambda: sum([A] * 17)),
    (ValueError, "terms", lambda: fl.CompoundLoss([])),
    (ValueError, "pairs", lambda: WeightedSum([])),
    (TypeError, "BCELoss", lambda: fl.CompoundLoss([(1.0, torch.nn.BCELoss())])),
    # schedules
    (ValueError, "stages", lambda: fl.LossSchedule([])),
    (ValueError, "stages", lambda: fl.LossSchedule([(1, A)])),
    (ValueError, "stages", lambda: fl.LossSchedule([(0, A), (5, B), (5, A)])),
    (TypeError, "epoch", lambda: fl.LossSchedule([(0.0, A)])),
    (TypeError, "stage", lambda: fl.LossSchedule([(0, torch.nn.BCELoss())])),
    (ValueError, "start", lambda: fl.LossSchedule.linear(A, B, 5, 5)),
    (ValueError, "start", lambda: fl.LossSchedule.linear(A, B, -1, 5)),
    (ValueError, "mode", lambda: fl.LossSchedule.linear(A, fl.CrossEntropyLoss(), 0, 5)),
    (ValueError, "period", lambda: fl.LossSchedule.alternating(A, B, 0, 5, 1)),
    (ValueError, "patience", lambda: fl.LossSchedule.on_plateau(A, B, patience=0)),
    (ValueError, "min_delta", lambda: fl.LossSchedule.on_plateau(A, B, min_delta=-1.0)),
    (ValueError, "mode", lambda: fl.LossSchedule.on_plateau(A, B, mode="best")),
    (ValueError, "epoch", lambda: fl.LossSchedule([(0, A)]).step(-1)),
    (TypeError, "epoch", lambda: fl.LossSchedule([(0, A)]).step(1.0)),
    (ValueError, "metric", lambda: fl.LossSchedule.on_plateau(A, B).step(1)),
]

CALLS = [
    (TypeError, "x", lambda: B(X.tolist(), Y)),
    (TypeError, "x", lambda: B(X.long(), Y)),
    (TypeError, "x", lambda: B(X.to_sparse(), Y)),
    (ValueError, "x", lambda: B(logits((2, 2, 8, 8)), target("binary", (2, 2, 8, 8)))),
    (ValueError, "x", lambda: B(X[0, 0], Y[0, 0])),
    (ValueError, "x", lambda: fl.DiceLoss("multilabel")(XC[0, 0], Y[0, 0])),
    (ValueError, "x", lambda: fl.CrossEntropyLoss()(X, Y[:, 0])),
    (ValueError, "x", lambda: fl.CrossEntropyLoss()(logits((2, 3)), torch.zeros(2).long())),
    (ValueError, "x", lambda: fl.CrossEntropyLoss()(logits((2, 3, 2, 2, 2, 2)), torch.zeros(2, 2, 2, 2, 2).long())),
    (TypeError, "y", lambda: B(X, None)),
    (TypeError, "y", lambda: B(X, Y.to(torch.complex64))),
    (ValueError, "y", lambda: B(X, Y[..., :-1])),
    (ValueError, "y", lambda: B(X, Y[:1])),
    (ValueError, "y", lambda: fl.DiceLoss("multilabel")(XC, YC)),
    (ValueError, "y", lambda: fl.CrossEntropyLoss()(XC, YC[:, :-1])),
    (TypeError, "y.*one-hot", lambda: fl.CrossEntropyLoss()(XC, XC.long())),
    (TypeError, "y", lambda: fl.CrossEntropyLoss()(XC, YC.float())),
    (TypeError, "mask", lambda: B(X, Y, Y)),
    (ValueError, "mask", lambda: B(X, Y, torch.ones(2, 2).bool())),
    (ValueError, "mask", lambda: fl.CrossEntropyLoss()(XC, YC, torch.ones(XC.shape).bool())),
    (TypeError, "pixel_weight", lambda: B(X, Y, None, Y)),
    (ValueError, "pixel_weight", lambda: B(X, Y, None, torch.rand(N, 1, *SPACE[::-1]))),
    (ValueError, "y.*gradient", lambda: B(X, Y.float().requires_grad_())),
    (ValueError, "pixel_weight.*gradient", lambda: B(X, Y, None, torch.rand(N, *SPACE, requires_grad=True))),
    (ValueError, "y.*meta", lambda: B(X, Y.to("meta"))),
    (ValueError, "classes", lambda: fl.DiceLoss("multiclass", classes=[3])(XC, YC)),
    (ValueError, "class_weights", lambda: fl.CrossEntropyLoss(class_weights=[1.0, 2.0])(XC, YC)),
    (ValueError, "pos_weight", lambda: fl.BCEWithLogitsLoss("multilabel", pos_weight=[1.0, 2.0])(XC, XC > 0)),
    (ValueError, "alpha", lambda: fl.FocalLoss("multilabel", alpha=[0.1, 0.2])(XC, XC > 0)),
    (ValueError, "weight", lambda: (torch.tensor(1.0, device="meta") * A)(X, Y)),
    (ValueError, "threshold", lambda: A.with_stats(X, Y, threshold=1.5)),
    (ValueError, "threshold", lambda: functional.stats(X, Y, threshold=NAN)),
    (ValueError, "reduction|with_stats", lambda: fl.BCEWithLogitsLoss(reduction="none").with_stats(X, Y)),
    (ValueError, "mode", lambda: functional.dice_loss(X, Y, "ternary")),
    (ValueError, "mode", lambda: functional.stats(X, Y, mode="ternary")),
    (RuntimeError, "process_group", lambda: fl.DiceLoss("binary", process_group=True)(X, Y)),
]


def faults(error, words, call):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error, type(caught.value)
    assert re.search(words, message), message
    assert "\n" not in message and message[-1] == "." and ". " not in message.replace("e. g.", ""), message
    assert len(message) < 260, message


@pytest.mark.parametrize("error,words,call", CONSTRUCTORS, ids=[f"{i}-{row[1]}" for i, row in enumerate(CONSTRUCTORS)])
def test_constructor(error, words, call):
    if words.startswith("unsupported"):  # Python's own words
        with pytest.raises(error, match=words):
            call()
    else:
        faults(error, words, call)


@pytest.mark.parametrize("error,words,call", CALLS, ids=[f"{i}-{row[1]}" for i, row in enumerate(CALLS)])
def test_call(error, words, call, backend, monkeypatch):
    if backend == "reference" and "gradient" in words:
        pytest.skip("the reference gives these gradients")
    for name in ("X", "Y", "XC", "YC"):
        monkeypatch.setitem(globals(), name, globals()[name].to(DEVICES[backend]))
    with fl.backends.use(backend):
        for _ in range(2):  # a failed call leaves no cached outcome
            faults(error, words, call)


@pytest.mark.parametrize("kind", NO_VECTORS)
@pytest.mark.parametrize("name,cls,form,mode", TAKE_VECTORS)
def test_functional_forms_refuse_what_the_classes_refuse(name, cls, form, mode, kind):
    error, bad = NO_VECTORS[kind]
    y = YC if mode == "multiclass" else (XC > 0)
    for _ in range(2):
        faults(error, name, lambda: form(XC, y, mode, **{name: bad}))


GOOD_VECTORS = {
    "list": lambda: [0.25, 0.5, 1.0], "tuple": lambda: (0.25, 0.5, 1.0), "array": lambda: np.array([0.25, 0.5, 1.0]),
    "float32": lambda: np.array([0.25, 0.5, 1.0], np.float32), "tensor": lambda: torch.tensor([0.25, 0.5, 1.0]),
    "numbers": lambda: list(np.array([0.25, 0.5, 1.0])), "generator": lambda: (v for v in (0.25, 0.5, 1.0)),
    "values": lambda: {"a": 0.25, "b": 0.5, "c": 1.0}.values(), "deque": lambda: deque([0.25, 0.5, 1.0]),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD_VECTORS)
@pytest.mark.parametrize("name,cls,form,mode", TAKE_VECTORS)
def test_whatever_has_an_order_is_a_vector(name, cls, form, mode, kind):
    y = YC if mode == "multiclass" else (XC > 0)
    expected = cls(mode, **{name: [0.25, 0.5, 1.0]})(XC, y)
    assert torch.equal(cls(mode, **{name: GOOD_VECTORS[kind]()})(XC, y), expected)
    for _ in range(2):
        assert torch.equal(form(XC, y, mode, **{name: GOOD_VECTORS[kind]()}), expected)
    changed = np.array([0.25, 0.5, 1.0])  # a cache goes by the numbers
    form(XC, y, mode, **{name: changed})
    changed[0] = 0.75
    assert torch.equal(form(XC, y, mode, **{name: changed}), cls(mode, **{name: [0.75, 0.5, 1.0]})(XC, y))


@pytest.mark.parametrize(
    "classes", ([0, 2], (2, 0), {0, 2}, frozenset({0, 2}), np.array([0, 2]), range(0, 3, 2)), ids=str
)
def test_classes_have_no_order(classes):
    expected = fl.DiceLoss("multiclass", classes=[0, 2])(XC, YC)
    assert torch.equal(fl.DiceLoss("multiclass", classes=classes)(XC, YC), expected)
    assert torch.equal(functional.dice_loss(XC, YC, "multiclass", classes=classes), expected)


def refuses(backend, words, call):
    """A fault in the values: on a device, where a look at them would wait for it, NaN, and an error under debug()."""
    if backend in WAITS:
        return faults(ValueError, words, call)
    value = call()
    value = value[0] if isinstance(value, tuple) else value
    assert value.isnan().any()
    with fl.debug():
        faults(ValueError, words, call)


def out_of_range(mode, name, bad, y, mask=None, **settings):
    loss = build(f"{mode}:{name}", **settings)
    x = logits(SHAPES[mode])
    there = (torch.arange(y.numel()) == 17).reshape(y.shape)
    return loss, x, torch.where(there, torch.tensor(bad, dtype=y.dtype), y), mask


BINARY_FAULTS = [(torch.uint8, 255), (torch.int8, -1), (torch.int64, 2), (torch.float32, 1.01), (torch.float32, -1e-3)]
BINARY_FAULTS += [(torch.float16, NAN), (torch.float64, INF), (torch.bfloat16, 2.0), (torch.int64, 2**40)]
BINARY_FAULTS += [(torch.uint16, 65535), (torch.uint32, 2**16), (torch.uint64, 2**32), (torch.uint64, 2**64 - 1)]
CLASS_FAULTS = [(torch.uint8, 3), (torch.uint8, 255), (torch.int8, -1), (torch.int16, 300), (torch.int32, -100)]
CLASS_FAULTS += [(torch.int64, 2**32), (torch.int64, -(2**40)), (torch.int64, 2**63 - 1)]
CLASS_FAULTS += [(torch.uint16, 3), (torch.uint32, 2**31), (torch.uint64, 2**32), (torch.uint64, 2**64 - 1)]
RANGE = [(m, *fault) for m in MODES for fault in (CLASS_FAULTS if m == "multiclass" else BINARY_FAULTS)]


@pytest.mark.parametrize("mode,kind,bad", RANGE, ids=str)
@pytest.mark.parametrize("name", ("dice", "focal-2.0", "topk", "everything"))
def test_values_out_of_range(name, mode, kind, bad, backend):
    """An error where the value counts; fine under a mask or as the ignored value."""
    loss, x, y, _ = out_of_range(mode, name, bad, target(mode, SHAPES[mode], kind))
    with fl.backends.use(backend):
        words = "class id" if mode == "multiclass" else r"0.{1,5}1"
        for call in (lambda: loss(x, y), lambda: loss(x.clone().requires_grad_(), y), lambda: loss.with_stats(x, y)):
            refuses(backend, rf"^y must .*{words}", call)
        with nullcontext() if backend in WAITS else fl.debug():  # counts have no NaN
            faults(ValueError, "^y must", lambda: functional.stats(x, y, mode))
        shape = y.shape if mode == "multilabel" else x[:, :1].shape
        mask = (torch.arange(y.numel()) != 17).reshape(shape)
        assert loss(x, y, mask).isfinite()
        if LOSSES[f"{mode}:{name}"][2] is not None and bad == bad and abs(bad) < 2**62 and bad == int(bad):
            assert build(f"{mode}:{name}", ignore_index=int(bad))(x, y).isfinite()


@pytest.mark.parametrize("mode", MODES)
def test_elementwise_values_out_of_range(mode, backend):
    name = "ce" if mode == "multiclass" else "bce"
    loss, x, y, _ = out_of_range(mode, name, 9, target(mode, SHAPES[mode]), reduction="none")
    with fl.backends.use(backend):
        refuses(backend, "^y must", lambda: loss(x, y))


def test_probabilities_are_not_checked_against_one(backend):
    """Rounding leaves them a little outside [0, 1]."""
    y = target("multiclass", SHAPES["multiclass"], "probabilities") * (1 + 1e-6)
    assert fl.CrossEntropyLoss(backend=backend)(XC.to(y.device), y).isfinite()
