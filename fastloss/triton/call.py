"""One call of an op as the kernels see it: its inputs, its partition, and the kernels that run on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..spec import AUX_COLUMNS, COUNTS, layout_of
from . import finalize, sigmoid, softmax, topk, tune
from .kernel_spec import AUX, SUM_COLUMNS, KernelTerm, kernel_spec_of
from .launch import launch, value_type
from .layout import FLOATS, INTEGERS, MOST_LOOPS, geometry_of, require

KEY_BLOCK = 2048
COMBINE_TILE = 64
FINALIZE_TILE = 512  # groups x classes


class KernelCall:
    """The inputs of an op."""

    def __init__(self, x, y, mask, pixel_weight, ints, floats, out=None, merge=True, out_channels=True):
        self.spec = spec = kernel_spec_of(tuple(ints), tuple(floats))
        require(x.dtype in FLOATS, "logits must be floating point")
        require(y.dtype in FLOATS or y.dtype in INTEGERS, "a tensor has a dtype that the kernels do not read")
        require(mask is None or mask.dtype is torch.bool, "mask must be bool")
        require(pixel_weight is None or pixel_weight.dtype in FLOATS, "pixel_weight must be floating point")
        self.indices = spec.softmax and y.dtype in INTEGERS
        tensors = (x, y, mask, pixel_weight, out)
        needs = (True, not self.indices, False, False, out_channels)
        arrays = tuple(
            [(None, (), False) if t is None else (t.shape, t.stride(), need) for t, need in zip(tensors, needs)]
        )
        self.geometry = geometry_of(x.shape, spec.binary, arrays, merge and not spec.per_sample)
        self.arrays = [(t, *strides) for t, strides in zip(tensors, self.geometry.strides)]
        shape = geometry_of(x.shape, spec.binary, arrays, False)
        self.samples, self.channels = shape.samples, shape.channels
        require(spec.vector in (0, self.channels), "a term's vector has another length than the logits have channels")
        self.elements = self.samples * shape.pixels * (1 if spec.softmax else self.channels)
        self.layout = layout_of(x.shape, ints)
        self.device, self.wide, self.hard = x.device, x.dtype is torch.float64, y.dtype in INTEGERS
        self.ignore = spec.has_ignore and not (spec.softmax and not self.indices) and _holds(y.dtype, spec.ignore_index)
        self.masked = self.ignore or mask is not None
        self.margin = self.hard and pixel_weight is None
        self.dense = spec.softmax and (not self.indices or spec.smoothing)
        self.type = value_type(self.wide)
        self.planes = 1 if spec.softmax else self.channels  # of one sample, each walked by programs of its own
        self.candidates = tune.SOFTMAX if spec.softmax else tune.SIGMOID
        self.cut(self.candidates[0][0])

    def cut(self, pixels: int) -> None:
        """Into programs that walk over tiles of so many pixels."""
        g = self.geometry
        self.block = pixels // (2 if self.wide else 1)
        self.blocks, self.loops = g.blocks(g.samples * self.planes, self.block, 1 if self.spec.softmax else MOST_LOOPS)
        self.programs = g.samples * self.planes * self.blocks

    def doubles(self, *sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.float64, device=self.device)

    def walk(self) -> tuple:
        """What every kernel over pixels starts with."""
        return (*self.arrays, self.geometry.space, self.channels, self.blocks)

    def run_pass(
        self, state, aux_at, grad_sums_at, weights=(), grad_output=None, before=None, predicted=None, partial=None
    ):
        """sigmoid_pass or softmax_pass; sums into `partial` if given, the gradient if there is an `out`."""
        spec, sums = self.spec, partial is not None
        constants = {
            "terms": spec.pixel_terms, "columns": SUM_COLUMNS, "SUMS": sums, "GRAD": self.arrays[4][0] is not None,
            "REGION": spec.region, "EXTRA": spec.extra, "IGNORE": self.ignore, "PER_SAMPLE": spec.per_sample,
            "COLUMNS": spec.columns, "WIDTH": spec.width, "T": self.type,
        }  # fmt: skip
        if spec.softmax:
            constants |= {"INDICES": self.indices, "DENSE": self.dense, "TARGETS": spec.weighted and self.indices}
            constants["VALUES"] = sums or bool(spec.topk)
        else:
            constants |= {"HARD": self.hard, "MARGIN": self.margin, "UNBOUNDED": spec.unbounded}
        kernel = softmax.softmax_pass if spec.softmax else sigmoid.sigmoid_pass
        numbers = spec.numbers(self.device)

        def run(candidate: tuple[int, int]) -> None:
            self.cut(candidate[0])
            launch(
                kernel, self.programs, self.device,
                (*self.walk(), self.loops, spec.ignore_index, numbers, weights, state, aux_at, grad_sums_at,
                 grad_output, before, predicted, self.elements, partial),
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
        rows = self.channels if self.spec.softmax else 1
        steps = (self.planes * self.blocks * rows * columns, (1 if self.spec.softmax else self.blocks) * columns)
        launch(
            finalize.combine, groups * self.channels, self.device,
            (partial, out, out_at, g.samples // groups, self.channels, self.blocks, *steps, rows * columns),
            {"COLUMNS": columns, "WIDTH": COUNTS if columns == COUNTS else self.spec.width, "TILE": COMBINE_TILE},
        )  # fmt: skip

    def finalize(self, sums, state, aux, aux_at, loss=None, weights=(), grad_output=None) -> None:
        channels = _power_of_two(self.channels)
        spec, layout = self.spec, self.layout
        groups = min(_power_of_two(layout.groups), max(1, FINALIZE_TILE // channels))
        size = 0 if state is None else state.numel()
        launch(
            finalize.finalize, 1, self.device,
            (sums, spec.numbers(self.device), weights, state, aux, aux_at, layout.grad_sums_at, size - 1,
             loss, grad_output, layout.groups, self.channels),
            {"terms": spec.terms, "columns": SUM_COLUMNS, "WEIGHTED": spec.weighted and self.indices,
             "SOFTMAX": spec.softmax, "COLUMNS": spec.columns, "CHANNELS": channels, "GROUPS": groups},
        )  # fmt: skip

    def select(self, aux: Tensor, aux_at: int) -> None:
        """Threshold, tie weight and count of every top-k term, into its row of aux."""
        spec = self.spec
        if not spec.topk:
            return
        digits = 8 if self.wide else 4
        keys = torch.empty(self.elements, dtype=torch.int64 if self.wide else torch.int32, device=self.device)
        room = 1 + len(spec.topk) * (digits - 1)
        work = torch.zeros((room + 1, 256), dtype=torch.int64, device=self.device)  # histograms, then cursors
        self.keys(keys, work[0])
        free = iter(work[1:room])
        constants = {"aux": AUX, "T": self.type}
        for position, (i, k_num, k_den) in enumerate(spec.topk):
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
                    constants | {"FIRST": digit == 0, "LAST": digit == digits - 1},
                )  # fmt: skip

    def keys(self, keys: Tensor, histogram: Tensor) -> None:
        self.elements_into(keys, histogram, self.spec.topk_elements)

    def elements_into(self, keys: Tensor | None, histogram: Tensor | None, term: KernelTerm) -> None:
        spec = self.spec
        constants = {"terms": (term,), "IGNORE": self.ignore, "T": self.type, "BLOCK": self.block}
        tail = (spec.ignore_index, spec.numbers(self.device), keys, histogram)
        if spec.softmax:
            dense = not self.indices or (keys is None and spec.smoothing)
            kernel, constants = softmax.softmax_elements, constants | {"INDICES": self.indices, "DENSE": dense}
            arguments = (*self.walk(), *tail)
        else:
            constants |= {"HARD": self.hard, "MARGIN": self.margin, "UNBOUNDED": spec.unbounded}
            kernel = sigmoid.sigmoid_elements
            arguments = (*self.walk(), self.loops, *tail)
        launch(kernel, self.programs, self.device, arguments, constants)

    def counts(self, state: Tensor, at: int, threshold: float) -> None:
        partial = self.doubles(self.programs * (self.channels if self.spec.softmax else 1) * COUNTS)
        x, y, mask, *_ = self.arrays
        walk = (x, y, mask, self.geometry.space, self.channels, self.blocks)
        constants = {"IGNORE": self.ignore, "T": self.type, "BLOCK": self.block}
        if self.spec.softmax:
            arguments = (*walk, self.spec.ignore_index, partial)
            launch(softmax.softmax_counts, self.programs, self.device, arguments, constants | {"INDICES": self.indices})
        else:
            smallest = torch.full((), _logit_threshold(threshold, self.wide), dtype=torch.float64, device=self.device)
            arguments = (*walk, self.loops, self.spec.ignore_index, smallest, partial)
            launch(sigmoid.sigmoid_counts, self.programs, self.device, arguments, constants)
        self.combine(partial, state, at, COUNTS, self.samples)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _holds(dtype: torch.dtype, value: int) -> bool:
    """Whether a label of that type can be the ignored one."""
    if dtype.is_floating_point:
        return True
    low, high = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return low <= value <= high


def _logit_threshold(threshold: float, wide: bool) -> float:
    """The smallest logit, in the type of the computation, whose sigmoid reaches the threshold."""
    if not 0.0 < threshold < 1.0:
        return math.copysign(math.inf, threshold - 0.5)
    exact = math.log(threshold / (1.0 - threshold))
    if wide:
        return exact
    rounded = torch.tensor(exact, dtype=torch.float32)
    above = torch.nextafter(rounded, torch.tensor(math.inf))
    return (above if rounded.double() < exact else rounded).item()
