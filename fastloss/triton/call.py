"""One call of an op as the kernels see it: its inputs, its partition, and the kernels that run on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import finalize, sigmoid, softmax, topk, tune
from .launch import launch, value_type
from .layout import AUX_COLUMNS, FLOATS, INTEGERS, MOST_LOOPS, geometry_of, plan_of, require

KEY_BLOCK = 2048
COMBINE_TILE = 64
FINALIZE_TILE = 512  # groups x classes


class Call:
    """The inputs of an op."""

    def __init__(self, x, y, mask, pixel_weight, ints, floats, out=None, merge=True, out_channels=True):
        self.plan = plan = plan_of(tuple(ints), tuple(floats))
        require(x.dtype in FLOATS, "logits must be floating point")
        require(y.dtype in FLOATS or y.dtype in INTEGERS, "a tensor has a dtype that the kernels do not read")
        require(mask is None or mask.dtype is torch.bool, "mask must be bool")
        require(pixel_weight is None or pixel_weight.dtype in FLOATS, "pixel_weight must be floating point")
        self.ids = plan.softmax and y.dtype in INTEGERS
        tensors = (x, y, mask, pixel_weight, out)
        needs = (True, not self.ids, False, False, out_channels)
        arrays = tuple(
            [(None, (), False) if t is None else (t.shape, t.stride(), need) for t, need in zip(tensors, needs)]
        )
        self.geometry = geometry_of(x.shape, plan.binary, arrays, merge and not plan.per_sample)
        self.arrays = [(t, *strides) for t, strides in zip(tensors, self.geometry.strides)]
        shape = geometry_of(x.shape, plan.binary, arrays, False)
        self.samples, self.channels = shape.samples, shape.channels
        require(plan.vector in (0, self.channels), "a term's vector has another length than the logits have channels")
        self.elements = self.samples * shape.pixels * (1 if plan.softmax else self.channels)
        self.groups = self.samples if plan.per_sample else 1
        self.device, self.wide, self.hard = x.device, x.dtype is torch.float64, y.dtype in INTEGERS
        self.ignore = plan.has_ignore and not (plan.softmax and not self.ids) and _holds(y.dtype, plan.ignore_index)
        self.masked = self.ignore or mask is not None
        self.margin = self.hard and pixel_weight is None
        self.dense = plan.softmax and (not self.ids or plan.smoothing)
        self.type = value_type(self.wide)
        self.planes = 1 if plan.softmax else self.channels  # of one sample, each walked by programs of its own
        self.candidates = tune.SOFTMAX if plan.softmax else tune.SIGMOID
        self.cut(self.candidates[0][0])

    def cut(self, pixels: int) -> None:
        """Into programs that walk over tiles of so many pixels."""
        g = self.geometry
        self.block = pixels // (2 if self.wide else 1)
        self.blocks, self.loops = g.blocks(g.samples * self.planes, self.block, 1 if self.plan.softmax else MOST_LOOPS)
        self.programs = g.samples * self.planes * self.blocks

    def doubles(self, *sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.float64, device=self.device)

    @property
    def size(self) -> int:
        return self.groups * self.channels * self.plan.columns

    def walk(self) -> tuple:
        """What every kernel over pixels starts with."""
        return (*self.arrays, self.geometry.space, self.channels, self.blocks)

    def run_pass(self, state, aux_at, dsums_at, weights=(), upstream=None, before=None, predicted=None, partial=None):
        """sigmoid_pass or softmax_pass; sums into `partial` if given, the gradient if there is an `out`."""
        plan, sums = self.plan, partial is not None
        constants = {
            "terms": plan.pixel_terms, "SUMS": sums, "GRAD": self.arrays[4][0] is not None, "REGION": plan.region,
            "EXTRA": plan.extra, "IGNORE": self.ignore, "PER_SAMPLE": plan.per_sample, "COLUMNS": plan.columns,
            "WIDTH": plan.width, "T": self.type,
        }  # fmt: skip
        if plan.softmax:
            constants |= {"IDS": self.ids, "DENSE": self.dense, "TARGETS": plan.weighted and self.ids}
            constants["VALUES"] = sums or bool(plan.topk)
        else:
            constants |= {"HARD": self.hard, "MARGIN": self.margin}
        kernel = softmax.softmax_pass if plan.softmax else sigmoid.sigmoid_pass
        numbers = plan.numbers(self.device)

        def run(candidate: tuple[int, int]) -> None:
            self.cut(candidate[0])
            launch(
                kernel, self.programs, self.device,
                (*self.walk(), self.loops, plan.ignore_index, numbers, weights, state, aux_at, dsums_at, upstream,
                 before, predicted, self.elements, partial),
                constants | {"BLOCK": self.block}, candidate[1],
            )  # fmt: skip

        if sums:
            return run(self.candidates[0])
        types = tuple([None if array[0] is None else array[0].dtype for array in self.arrays])
        sizes = (self.channels, self.elements.bit_length(), len(self.geometry.space))
        key = (kernel.__name__, *constants.values(), *types, *sizes)
        return run(tune.choose(self.candidates, key, self.device, run if before is None else None))

    def combine(self, partial: Tensor, out: Tensor, out_at: int, columns: int, groups: int) -> None:
        """Rows of programs to rows of groups and channels."""
        g = self.geometry
        rows = self.channels if self.plan.softmax else 1
        steps = (self.planes * self.blocks * rows * columns, (1 if self.plan.softmax else self.blocks) * columns)
        launch(
            finalize.combine, groups * self.channels, self.device,
            (partial, out, out_at, g.samples // groups, self.channels, self.blocks, *steps, rows * columns),
            {"COLUMNS": columns, "WIDTH": 4 if columns == 4 else self.plan.width, "TILE": COMBINE_TILE},
        )  # fmt: skip

    def finalize(self, sums, state, aux, aux_at, loss=None, weights=(), upstream=None) -> None:
        channels = _power_of_two(self.channels)
        groups = min(_power_of_two(self.groups), max(1, FINALIZE_TILE // channels))
        plan = self.plan
        size = 0 if state is None else state.numel()
        launch(
            finalize.finalize, 1, self.device,
            (sums, plan.numbers(self.device), weights, state, aux, aux_at, plan.count * (1 + AUX_COLUMNS), size - 1,
             loss, upstream, self.groups, self.channels),
            {"terms": plan.terms, "WEIGHTED": plan.weighted and self.ids, "SOFTMAX": plan.softmax,
             "COLUMNS": plan.columns, "CHANNELS": channels, "GROUPS": groups},
        )  # fmt: skip

    def select(self, aux: Tensor, aux_at: int) -> None:
        """Threshold, tie weight and count of every top-k term, into its row of aux."""
        plan = self.plan
        if not plan.topk:
            return
        digits = 8 if self.wide else 4
        keys = torch.empty(self.elements, dtype=torch.int64 if self.wide else torch.int32, device=self.device)
        room = 1 + len(plan.topk) * (digits - 1)
        work = torch.zeros((room + 1, 256), dtype=torch.int64, device=self.device)  # histograms, then cursors
        self.keys(keys, work[0])
        free = iter(work[1:room])
        kind = {"T": self.type}
        for position, (i, k_num, k_den) in enumerate(plan.topk):
            cursor, row, histogram = work[room, 2 * position :], aux[aux_at + AUX_COLUMNS * i :], work[0]
            for digit in range(digits):
                if digit:
                    histogram = next(free)
                    tiles = -(-self.elements // KEY_BLOCK)
                    loops = min(max(1, tiles // 1024), 64)
                    launch(
                        topk.topk_histogram, -(-tiles // loops), self.device,
                        (keys, cursor, histogram, self.elements, loops),
                        {"SHIFT": 8 * (digits - 1 - digit), "BLOCK": KEY_BLOCK},
                    )  # fmt: skip
                launch(
                    topk.topk_select, 1, self.device, (histogram, cursor, row, k_num, k_den),
                    {"FIRST": digit == 0, "LAST": digit == digits - 1, **kind},
                )  # fmt: skip

    def keys(self, keys: Tensor, histogram: Tensor) -> None:
        # The element of every top-k term: BCE or cross-entropy as it is.
        term = (self.plan.topk[0][0], 0, 3, 0, 0, 1, -1)
        self.elements_into(keys, histogram, term)

    def elements_into(self, keys: Tensor | None, histogram: Tensor | None, term: tuple) -> None:
        plan = self.plan
        constants = {"terms": (term,), "IGNORE": self.ignore, "T": self.type, "BLOCK": self.block}
        tail = (plan.ignore_index, plan.numbers(self.device), keys, histogram)
        if plan.softmax:
            dense = not self.ids or (keys is None and plan.smoothing)
            kernel, constants = softmax.softmax_elements, constants | {"IDS": self.ids, "DENSE": dense}
            arguments = (*self.walk(), *tail)
        else:
            kernel, constants = sigmoid.sigmoid_elements, constants | {"HARD": self.hard, "MARGIN": self.margin}
            arguments = (*self.walk(), self.loops, *tail)
        launch(kernel, self.programs, self.device, arguments, constants)

    def counts(self, state: Tensor, at: int, threshold: float) -> None:
        partial = self.doubles(self.programs * (self.channels if self.plan.softmax else 1) * 4)
        x, y, mask, *_ = self.arrays
        walk = (x, y, mask, self.geometry.space, self.channels, self.blocks)
        constants = {"IGNORE": self.ignore, "T": self.type, "BLOCK": self.block}
        if self.plan.softmax:
            arguments = (*walk, self.plan.ignore_index, partial)
            launch(softmax.softmax_counts, self.programs, self.device, arguments, constants | {"IDS": self.ids})
        else:
            cut = torch.full((), _probability_cut(threshold, self.wide), dtype=torch.float64, device=self.device)
            arguments = (*walk, self.loops, self.plan.ignore_index, cut, partial)
            launch(sigmoid.sigmoid_counts, self.programs, self.device, arguments, constants)
        self.combine(partial, state, at, 4, self.samples)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _holds(dtype: torch.dtype, value: int) -> bool:
    """Whether a label of that type can be the ignored one."""
    if dtype.is_floating_point:
        return True
    low, high = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return low <= value <= high


def _probability_cut(threshold: float, wide: bool) -> float:
    """The smallest logit, in the type of the computation, whose sigmoid reaches the threshold."""
    if not 0.0 < threshold < 1.0:
        return math.copysign(math.inf, threshold - 0.5)
    cut = math.log(threshold / (1.0 - threshold))
    if wide:
        return cut
    rounded = torch.tensor(cut, dtype=torch.float32)
    above = torch.nextafter(rounded, torch.tensor(math.inf))
    return (above if rounded.double() < cut else rounded).item()
