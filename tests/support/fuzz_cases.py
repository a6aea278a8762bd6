"""Random losses and inputs for fuzz.py: everything that a call can be given, from one seed, and ways to spoil it."""

from __future__ import annotations

import inspect
import random
from dataclasses import dataclass, field, replace

import torch
from cases import DTYPES, INTEGERS, MODES

import fastloss as fl
from fastloss.spec import CURVES

SPECIAL = (0.0, -0.0, 1e-3, 1e-6, -20.0, 20.0, 88.0, -104.0, 710.0, -1e4, 6e4)
ENDS = (torch.inf, -torch.inf, torch.nan)
NEVER = 77  # no class, and no label


@dataclass
class Case:
    """A loss and the arguments of a call; `soft` targets and NaN among the logits limit what can be compared."""

    loss: fl.compound.Criterion
    x: torch.Tensor
    y: torch.Tensor
    mask: torch.Tensor | None
    pixel_weight: torch.Tensor | None
    note: str
    hostile: bool = False  # NaN or infinite logits at places that count
    bases: list[torch.Tensor] = field(default_factory=list)

    @property
    def args(self) -> tuple:
        return self.x, self.y, self.mask, self.pixel_weight


def space_of(r: random.Random) -> tuple[int, ...]:
    """Small; now and then past the ends of chunks (1024) and softmax's rows (2048), rarely of a block (16 * 1024)."""
    chance = r.random()
    if chance < 0.002:
        return (r.choice((16384, 16385, 17000)),)
    if chance < 0.03:
        return (r.choice((1023, 1024, 1025, 1500, 2048, 2049)),)
    if chance < 0.05:
        return (r.randint(30, 70), r.randint(20, 40))
    return tuple(
        [r.choice((0, 33)) if r.random() < 0.03 else r.choice((1, 2, 3, 5, 8, 13, 17)) for _ in range(r.randint(1, 3))]
    )


def often(r: random.Random, usual: tuple, seldom: tuple):
    return r.choice(seldom if r.random() < 0.05 else usual)


def vector(r: random.Random, channels: int, high: float = 3.0) -> list[float] | None:
    if r.random() < 0.5:
        return None
    return [0.0 if r.random() < 0.1 else r.uniform(0.01, high) for _ in range(channels)]


def region(r: random.Random, mode: str, channels: int) -> dict:
    batch = r.random() < 0.6
    smooth = r.choice((0.0, 0.0, 1e-5, 1.0))
    rules = ["zero", "skip"] + ["score"] * (smooth > 0)
    found = {
        "smooth": smooth, "eps": r.choice((1e-7, 1e-3)), "curve": r.choice(CURVES), "squared": r.random() < 0.25,
        "soft": r.choice(("product", "product", "l1")), "batch": batch, "empty": r.choice(rules),
    }  # fmt: skip
    if mode != "binary":
        found["class_weights"] = vector(r, channels)
        if r.random() < 0.3:
            found["classes"] = sorted(r.sample(range(channels), r.randint(1, channels)))
    return found


SUMMED = (
    fl.BoundaryDoULoss,
    fl.GeneralizedDiceLoss,
    fl.MCCLoss,
    fl.SensitivitySpecificityLoss,
    fl.TvMFDiceLoss,
    fl.WeightedSoftDiceLoss,
)


def summed(r: random.Random, mode: str, settings: dict) -> fl.compound.Criterion:
    """A loss that PyTorch finishes, of those of the settings of a region loss that it has."""
    owner = r.choice(SUMMED)
    found = settings | {"smooth": r.choice((1e-3, 1.0))}
    if owner is fl.TvMFDiceLoss and found["empty"] == "score":
        found["empty"] = "zero"
    return owner(mode, **{name: found[name] for name in inspect.signature(owner).parameters if name in found})


def term(r: random.Random, mode: str, channels: int, ignore: int | None) -> fl.compound.Criterion:
    softmax = mode == "multiclass"
    kind = r.choice(("pointwise", "focal", "topk", "dice", "jaccard", "tversky", "summed"))
    common = {"ignore_index": ignore}
    if kind == "pointwise":
        common |= {"reduction": r.choice(("mean", "sum")), "label_smoothing": r.choice((0.0, 0.0, 0.1, 1.0))}
        if softmax:
            return fl.CrossEntropyLoss(class_weights=vector(r, channels), **common)
        weight = r.choice((None, 0.0, 2.5, vector(r, channels)))
        return fl.BCEWithLogitsLoss(mode, pos_weight=weight, **common)
    if kind == "focal":
        alpha = r.choice((None, 0.25, vector(r, channels, 1.0)))
        gamma = r.choice((0.0, 0.5, 1.0, 1.5, 2.0, 5.0))
        return fl.FocalLoss(mode, gamma=gamma, alpha=alpha, reduction=r.choice(("mean", "sum")), **common)
    if kind == "topk":
        return fl.TopKLoss(mode, k=r.choice((1e-6, 0.1, 0.29, 0.5, 1.0)), reduction=r.choice(("mean", "sum")), **common)
    settings = region(r, mode, channels) | common
    if kind == "summed":
        return summed(r, mode, settings)
    if kind == "tversky":
        settings |= {"alpha": r.choice((0.0, 0.3, 1.5)), "beta": r.choice((0.0, 0.7, 1.0))}
    if settings["curve"] != "log_cosh":
        settings["gamma"] = r.choice((0.75, 1.0, 1.0, 1.5, 2.0))
    return {"dice": fl.DiceLoss, "jaccard": fl.JaccardLoss, "tversky": fl.TverskyLoss}[kind](mode, **settings)


def compound(r: random.Random, mode: str, channels: int, ignore: int | None) -> fl.compound.Criterion:
    terms = [term(r, mode, channels, ignore) for _ in range(r.choice((1, 1, 2, 2, 3, 5)))]
    if len(terms) == 1:
        return terms[0]
    weights = [r.choice((1.0, 0.5, -0.3, 0.0, 2.0)) for _ in terms]
    return fl.CompoundLoss([(torch.tensor(w) if r.random() < 0.2 else w, t) for w, t in zip(weights, terms)])


def laid(r: random.Random, t: torch.Tensor, bases: list[torch.Tensor]) -> torch.Tensor:
    """The same numbers with other strides; the memory around them is watched."""
    way = r.random()
    if way < 0.4 or t.ndim < 2:
        return t
    if way < 0.6:
        order = list(range(t.ndim))
        r.shuffle(order)
        back = [order.index(axis) for axis in range(t.ndim)]
        return t.permute(order).contiguous().permute(back)
    steps = [r.choice((1, 1, 2, 3)) for _ in t.shape]
    starts = [r.randint(0, 2) for _ in t.shape]
    base = torch.empty([b + n * s for b, n, s in zip(starts, t.shape, steps)], dtype=t.dtype)
    base.view(torch.uint8 if base.dtype == torch.bool else base.dtype).fill_(1)
    view = base[tuple([slice(b, b + n * s, s) for b, n, s in zip(starts, t.shape, steps)])]
    view.copy_(t)
    bases.append(base)
    return view


def relaid(r: random.Random, case: Case) -> Case:
    """The same numbers with other strides."""
    x, y, mask, weight = [t if t is None else laid(r, t, []) for t in case.args]
    return replace(case, x=x, y=y, mask=mask, pixel_weight=weight)


def targets(r: random.Random, mode: str, shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    samples, channels, *space = shape
    kind = r.choice((torch.bool, *INTEGERS, *DTYPES))
    if mode == "multiclass":
        if kind.is_floating_point:
            y = torch.softmax(torch.randn(shape, generator=g), 1).to(kind)
            return y if r.random() < 0.7 else (y == y.amax(1, keepdim=True)).to(kind)
        ids = torch.randint(0, channels if kind != torch.bool else 2, (samples, *space), generator=g)
        if r.random() < 0.3:
            ids.clamp_(max=max(0, channels - 2))  # a class is absent
        return (ids if r.random() < 0.8 else ids[:, None]).to(kind)
    y = torch.rand(shape, generator=g) < often(r, (0.1, 0.5, 0.8), (0.0, 1.0))
    if kind.is_floating_point and r.random() < 0.6:
        soft = torch.rand(shape, generator=g)
        y = torch.where(torch.rand(shape, generator=g) < 0.5, soft, y.float())
        if r.random() < 0.3:  # what rounding leaves outside
            y = torch.where(y == 1, y + 5e-6, torch.where(y == 0, y - 5e-6, y))
    y = y.to(kind)
    return y[:, 0] if channels == 1 and r.random() < 0.3 else y


def numbers(r: random.Random, shape: tuple[int, ...], dtype: torch.dtype, g: torch.Generator) -> torch.Tensor:
    x = torch.randn(shape, generator=g) * r.choice((0.1, 1.0, 3.0, 30.0))
    if r.random() < 0.3 and x.numel():
        flat = x.flatten()
        for _ in range(r.randint(1, 6)):
            flat[r.randrange(flat.numel())] = r.choice(SPECIAL)
        x = flat.reshape(shape)
    return x.to(dtype)


def draw(seed: int) -> Case:
    r, g = random.Random(seed), torch.Generator().manual_seed(seed)
    mode = r.choice(MODES)
    channels = {"binary": 1, "multilabel": r.randint(1, 5), "multiclass": r.randint(2, 6)}[mode]
    if mode == "multiclass" and r.random() < 0.05:
        channels = r.choice((9, 17, 33))
    shape = (often(r, (1, 1, 2, 2, 3, 5), (0,)), channels, *space_of(r))
    bases: list[torch.Tensor] = []
    x = numbers(r, shape, r.choice(DTYPES), g)
    y = targets(r, mode, shape, g)
    plain, single = (shape[0], *shape[2:]), (shape[0], 1, *shape[2:])
    forms = [plain, single] + [shape] * (mode != "multiclass")
    mask = torch.rand(r.choice(forms), generator=g) < often(r, (0.5, 0.9), (0.0,)) if r.random() < 0.4 else None
    weight = None
    if r.random() < 0.3:
        weight = (torch.rand(r.choice(forms), generator=g) * 2).to(r.choice(DTYPES))
    ignore = None
    if r.random() < 0.4:
        probabilities = mode == "multiclass" and y.is_floating_point()
        ignore = r.choice((-1, -100, 0, 1, 255, NEVER, -(2**63), 2**62))
        info = None if y.dtype == torch.bool or y.is_floating_point() else torch.iinfo(y.dtype)
        fits = info is None or info.min <= ignore <= info.max
        if not probabilities and y.dtype != torch.bool and fits and abs(ignore) < 256:
            y = torch.where(torch.rand(y.shape, generator=g) < 0.3, torch.tensor(ignore, dtype=y.dtype), y)
    y = spoiled_where_nothing_counts(r, mode, x, y, mask)
    loss = compound(r, mode, channels, ignore)
    note = f"seed {seed}: {loss!r} x {list(x.shape)} {x.dtype} y {list(y.shape)} {y.dtype}"
    case = Case(loss, x, y, mask, weight, note)
    if r.random() < 0.05 and x.numel():
        flat = x.flatten()
        flat[r.randrange(flat.numel())] = r.choice(ENDS)
        case = replace(case, x=flat.reshape(shape), hostile=True)
    if mode == "binary" and y.ndim < x.ndim and x.ndim == 4 and x.shape[2] != 1 and r.random() < 0.3:
        case = replace(case, x=case.x[:, 0])
        case.mask, case.pixel_weight = [t if t is None or t.ndim == 3 else t[:, 0] for t in (mask, weight)]
    laid_out = [t if t is None else laid(r, t, bases) for t in case.args]
    return replace(case, **dict(zip(("x", "y", "mask", "pixel_weight"), laid_out)), bases=bases)


def spoiled_where_nothing_counts(r, mode, x, y, mask):
    """Labels under the mask may be anything."""
    if mask is None or r.random() < 0.5 or y.dtype == torch.bool:
        return y
    shape = y.shape if y.ndim == x.ndim else (y.shape[0], 1, *y.shape[1:])
    there = mask if mask.ndim == x.ndim else mask[:, None]
    if there.shape[1] > shape[1]:
        return y
    out = ~there.expand(shape).reshape(y.shape)
    return torch.where(out, torch.tensor(torch.nan if y.is_floating_point() else NEVER, dtype=y.dtype), y)


def bad(r: random.Random, case: Case) -> Case | None:
    """The case with one fault that must be told, or None if the fault that was drawn does not fit it."""
    x, y = case.x, case.y
    softmax = case.loss.mode == "multiclass"
    wide = (*x.shape[:-1], x.shape[-1] + 1)
    faults = {
        "x": [x.to(torch.int32), x.tolist(), None, x.to_sparse(), x.reshape(-1), x.to(torch.complex64), x > 0],
        "y": [None, y.to(torch.complex64), 3, y.reshape(*y.shape, 1, 1, 1), y.to("meta"),
              torch.zeros(wide if y.ndim == x.ndim else (*wide[:1], *wide[2:]), dtype=y.dtype)],
        "mask": [torch.ones(wide).bool(), torch.ones(x.shape, dtype=torch.uint8), 1, torch.ones(0).bool(),
                 torch.ones(x.shape[0] + 1, *x.shape[1:]).bool()],
        "pixel_weight": [torch.ones(wide), torch.ones(x.shape, dtype=torch.int64), 0.5, torch.ones(())],
    }  # fmt: skip
    if softmax and not y.is_floating_point():
        faults["y"].append(y.float())
    name = r.choice((*faults, "value", "value"))
    if name != "value":
        return replace(case, **{name: r.choice(faults[name])})
    return out_of_range(r, case)


def out_of_range(r: random.Random, case: Case) -> Case | None:
    """A label that is none at a place that counts."""
    y, softmax = case.y, case.loss.mode == "multiclass"
    if (softmax and y.is_floating_point()) or y.dtype == torch.bool or y.numel() == 0 or case.mask is not None:
        return None
    if y.is_floating_point():
        wrong = r.choice((torch.nan, torch.inf, -torch.inf, 1.25, -0.5, 255.0, 1e4))
    else:
        channels = case.x.shape[1] if softmax else 2
        info = torch.iinfo(y.dtype)
        fitting = [v for v in (channels, 99, -1, 126, info.min, info.max, 2**16, 2**32) if info.min <= v <= info.max]
        wrong = r.choice([v for v in fitting if not 0 <= v < channels])
    if case.loss.ignore_index == wrong:
        return None
    y = y.clone()
    place = tuple([r.randrange(n) for n in y.shape])
    y[place] = torch.tensor(wrong, dtype=y.dtype)
    return replace(case, y=y)
