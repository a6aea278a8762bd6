"""torch.library.opcheck on every op of every compiled backend: schema, gradients, fake kernels, AOT dispatch."""

import pytest
import torch
from cases import LOSSES, MODES, SHAPES, build, logits, target

from fastloss import _ops
from fastloss.spec import HEADER_INTS, TERM_FLOATS, WANT_COUNTS, WANT_GRAD, Header, TermInt

SAMPLES = [f"{m}:{n}" for m in MODES for n in ("dice+focal", "everything", "dice-sample-skip")]
VARIANTS = ("plain", "masked", "half", "channels_last")


def arguments(name, variant):
    mode = LOSSES[name][0]
    shape = (2, SHAPES[mode][1], 5, 4)
    dtype = torch.float16 if variant == "half" else torch.float32
    x = logits(shape, dtype, "channels_last" if variant == "channels_last" else "contiguous")
    extra = (torch.rand(2, 5, 4) < 0.7, torch.rand(2, 5, 4)) if variant == "masked" else (None, None)
    ints, floats = build(name).spec.encode(shape[1])
    return (x, target(mode, shape, torch.uint8), *extra), ints, floats


def op(backend, name):
    return getattr(getattr(torch.ops, f"fastloss_{backend}"), name).default


def check(op, args):
    result = torch.library.opcheck(op, args)
    assert set(result.values()) == {"SUCCESS"}, result


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SAMPLES)
def test_loss_and_backward(name, variant, compiled):
    given, ints, floats = arguments(name, variant)
    loss = op(compiled, "loss")
    for want in (0, WANT_COUNTS, WANT_GRAD):
        check(loss, (*given, [], ints, floats, want, 0.5, 1.0))
    _, state, _ = loss(*given, [], ints, floats, 0, 0.5, 1.0)
    check(op(compiled, "backward"), (torch.tensor(2.0), state, *given, ints, floats))
    check(loss, (given[0].clone().requires_grad_(), *given[1:], [], ints, floats, 0, 0.5, 1.0))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SAMPLES)
def test_sums(name, variant, compiled):
    (x, *rest), ints, floats = arguments(name, variant)
    check(op(compiled, "sums"), (x, *rest, ints, floats))
    check(op(compiled, "sums"), (x.requires_grad_(), *rest, ints, floats))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ("binary:bce", "multilabel:focal-1.5", "multiclass:ce-smoothing", "multiclass:ce"))
def test_elementwise(name, variant, compiled):
    (x, *rest), ints, floats = arguments(name, variant)
    check(op(compiled, "elementwise"), (x, *rest, ints, floats))
    check(op(compiled, "elementwise"), (x.requires_grad_(), *rest, ints, floats))


def test_weight_tensors(compiled):
    given, ints, floats = arguments("binary:tensors", "plain")
    weights = [torch.tensor(0.5), torch.tensor(2.0, dtype=torch.float64)]
    check(op(compiled, "loss"), (*given, weights, ints, floats, 0, 0.5, 1.0))


def test_predictions_are_kept_for_a_bounded_number_of_specs():
    """What a stream remembers of the gradients of losses, however many losses and shapes come by."""
    x, encodings = torch.zeros(1, 1, 2, 2), [[n] for n in range(_ops._SLOTS + 200)]
    first = _ops._prediction(encodings[0], x)
    assert _ops._prediction(encodings[0], x) is first and _ops._prediction(encodings[0], x[..., :1]) is not first
    for ints in encodings:
        last = _ops._prediction(ints, x)
    (known,) = [known for place, known in _ops._predictions.items() if place == (x.device, _ops._stream(x.device))]
    assert len(known) == _ops._SLOTS == len({slot.data_ptr() for slot in known.values()})
    assert _ops._prediction(encodings[-1], x) is last


def put(place, value):
    return lambda ints: [*ints[:place], value, *ints[place + 1 :]]


BROKEN = {
    "another version": put(Header.VERSION, 99),
    "too many terms": put(Header.TERMS, 17),
    "cut off": lambda ints: ints[:-3],
    "unknown kind": put(HEADER_INTS + TermInt.KIND, 77),
    "a weight that is not there": put(HEADER_INTS + TermInt.WEIGHT_INDEX, 3),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_direct_call_with_a_broken_encoding_raises(change, compiled):
    given, ints, floats = arguments("binary:dice+focal", "plain")
    with pytest.raises((ValueError, RuntimeError)):
        op(compiled, "loss")(*given, [], change(list(ints)), floats, 0, 0.5, 1.0)


# Where the vector of the first term lies in the pool, and its length: outside, past 64 bits, one short for 3 classes.
VECTORS = [(1, 3), (-1, 3), (0, 4), (0, 2**63 - 1), (2**63 - 1, 3), (1, 2**63 - 1), (2**62, 2**62), (0, 2), (1, 2)]


@pytest.mark.parametrize("begin,length", VECTORS)
@pytest.mark.parametrize("name", ("ce-weights", "focal-alphas", "dice-weights"))
def test_a_direct_call_with_a_vector_elsewhere_raises(name, begin, length, compiled):
    given, ints, floats = arguments(f"multiclass:{name}", "plain")
    vector = HEADER_INTS + TermInt.VECTOR_BEGIN
    spoiled = [*ints[:vector], begin, length, *ints[vector + 2 :]]
    assert ints[vector : vector + 2] == [0, 3] and len(floats) == TERM_FLOATS + 3
    for call in ("loss", "sums"):
        with pytest.raises((ValueError, RuntimeError)):
            rest = ([], spoiled, floats, 0, 0.5, 1.0) if call == "loss" else (spoiled, floats)
            op(compiled, call)(*given, *rest)


def test_a_direct_call_with_other_shapes_raises(compiled):
    """Python validates; the op itself still never reads out of bounds."""
    (x, y, *_), ints, floats = arguments("multiclass:dice+focal", "plain")
    loss = op(compiled, "loss")
    cases = {
        "batch": (x, y[:1], None, None),
        "space": (x, y[..., :-1], None, None),
        "channels": (x, torch.rand(2, 2, 5, 4), None, None),
        "mask dtype": (x, y, y, None),
        "mask shape": (x, y, torch.ones(2, 5).bool(), None),
        "weight dtype": (x, y, None, y),
        "logits dtype": (x.long(), y, None, None),
        "rank": (x[..., None, None, None], y, None, None),
    }
    for what, given in cases.items():
        with pytest.raises((ValueError, RuntimeError)):
            loss(*given, [], ints, floats, 0, 0.5, 1.0)
            pytest.fail(f"{what}: no error")


def test_a_direct_call_with_a_state_of_another_type_raises(compiled):
    (x, y, *_), ints, floats = arguments("binary:dice+focal", "plain")
    _, state, _ = op(compiled, "loss")(x, y, None, None, [], ints, floats, 0, 0.5, 1.0)
    for wrong in (state.float(), state[:-2], state.repeat_interleave(2)[::2]):
        with pytest.raises((ValueError, RuntimeError), match="state"):
            op(compiled, "backward")(torch.tensor(1.0), wrong, x, y, None, None, ints, floats)


WRONG = {
    "predicted: float32": {"predicted": torch.ones((), dtype=torch.float32)},
    "predicted: half": {"predicted": torch.ones((), dtype=torch.float16)},
    "predicted: two numbers": {"predicted": torch.ones(2, dtype=torch.float64)},
    "predicted: none": {"predicted": torch.ones(0, dtype=torch.float64)},
    "grad: float64": {"grad": torch.ones(2, 1, 5, 4, dtype=torch.float64)},
    "grad: half": {"grad": torch.ones(2, 1, 5, 4, dtype=torch.float16)},
    "grad: smaller": {"grad": torch.ones(2, 1, 5, 3)},
    "state: float32": {"state": torch.ones(100)},
    "state: short": {"state": torch.ones(3, dtype=torch.float64)},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_direct_call_of_rescale_grad_never_writes_elsewhere(wrong, compiled):
    """`rescale_grad` writes through two of its arguments."""
    if compiled == "cpu":
        pytest.skip("the CPU has no such op")
    (x, y, *_), ints, floats = arguments("binary:dice+focal", "plain")
    predicted = torch.ones((), dtype=torch.float64)
    _, state, grad = op(compiled, "loss")(x, y, None, None, [], ints, floats, WANT_GRAD, 0.5, 1.0, predicted)
    rescale_grad, inputs = op(compiled, "rescale_grad"), (x, y, None, None, ints, floats)
    given = {"grad": grad, "predicted": predicted, "state": state}
    rescale_grad(torch.tensor(2.0), grad, predicted, state, *inputs)
    assert predicted.item() == 2.0
    given |= {name: t.to(x.device) for name, t in wrong.items()}
    with pytest.raises((ValueError, RuntimeError)):
        rescale_grad(torch.tensor(3.0), given["grad"], given["predicted"], given["state"], *inputs)
