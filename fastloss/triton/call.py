"""What a call of an op needs besides its tensors: how they are walked, the partition, and the kernels that run."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ..spec import layout_of
from . import finalize, sigmoid, softmax, tune
from .kernel_spec import SUM_COLUMNS, KernelSpec, KernelTerm
from .launch import Launch, value_type
from .layout import FLOATS, INTEGERS, MOST_LOOPS, geometry_of, require

COMBINE_TILE, FINISH_WARPS = 256, 8  # rows that one program loads at a time: what it waits for is their latency
FINALIZE_TILE = 512  # groups x classes


class Array(NamedTuple):
    """All that kernels are compiled for in an input, and its device."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    aligned: bool  # to 16 bytes
    device: torch.device


class Cut(NamedTuple):
    """How the walk over pixels is cut: pixels of a tile, programs of a plane, tiles that each walks over, programs."""

    block: int
    blocks: int
    loops: int
    programs: int


def call_of(
    spec: KernelSpec, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None,
    out: Tensor | None = None, merge: bool = True, out_channels: bool = True,
) -> KernelCall:  # fmt: skip
    """The call of that spec on inputs like these, looked up by all that its kernels are compiled for."""
    return _calls(
        spec, array_of(x), array_of(y), None if mask is None else array_of(mask),
        None if pixel_weight is None else array_of(pixel_weight), None if out is None else array_of(out),
        merge, out_channels,
    )  # fmt: skip


def array_of(t: Tensor) -> tuple:
    return t.shape, t.stride(), t.dtype, t.data_ptr() % 16 == 0, t.device


class KernelCall:
    """One spec on inputs of one kind. Tensors come with each use; what they share is worked out once."""

    def __init__(self, spec: KernelSpec, *rest) -> None:
        *given, merge, out_channels = rest
        arrays = [None if a is None else Array(*a) for a in given]
        x, y, mask, pixel_weight, _ = arrays
        require(x.dtype in FLOATS, "logits must be floating point")
        require(y.dtype in FLOATS or y.dtype in INTEGERS, "a tensor has a dtype that the kernels do not read")
        require(mask is None or mask.dtype is torch.bool, "mask must be bool")
        require(pixel_weight is None or pixel_weight.dtype in FLOATS, "pixel_weight must be floating point")
        require(all([a is None or a.device == x.device for a in arrays]), "the inputs are on different devices")
        self.spec, self.device = spec, x.device
        self.indices = spec.softmax and y.dtype in INTEGERS
        needs = (True, not self.indices, False, False, out_channels)
        walked = tuple(
            [(None, (), False) if a is None else (a.shape, a.stride, need) for a, need in zip(arrays, needs)]
        )
        self.geometry = geometry_of(x.shape, spec.binary, walked, merge and not spec.per_sample)
        self.strides, self.space = self.geometry.strides, self.geometry.space
        shape = geometry_of(x.shape, spec.binary, walked, False)
        self.samples, self.channels = shape.samples, shape.channels
        require(spec.vector in (0, self.channels), "a term's vector has another length than the logits have channels")
        self.elements = self.samples * shape.pixels * (1 if spec.softmax else self.channels)
        self.layout = layout_of(x.shape, spec.ints)
        self.wide, self.hard = x.dtype is torch.float64, y.dtype in INTEGERS
        self.ignore = spec.has_ignore and not (spec.softmax and not self.indices) and _holds(y.dtype, spec.ignore_index)
        self.masked = self.ignore or mask is not None
        self.margin = self.hard and pixel_weight is None
        self.dense = spec.softmax and (not self.indices or spec.smoothing)
        self.type = value_type(self.wide)
        self.planes = 1 if spec.softmax else self.channels  # of one sample, each walked by programs of its own
        self.candidates = tune.SOFTMAX if spec.softmax else tune.SIGMOID
        self.types = tuple([a and a.dtype for a in arrays])
        self.cut = self.cut_by(self.candidates[0][0])  # of all kernels but that of the gradient alone
        self.rows = self.cut.programs * (self.channels if spec.softmax else 1)  # of sums that the programs leave
        # Without masks, region terms and top-k the denominators are known: one kernel makes sums and gradient.
        self.known = not (spec.region or spec.topk or self.masked or (spec.weighted and self.indices))
        self._launches: dict[tuple, Launch] = {}
        self._passes: dict[tuple, tuple[Launch, Cut]] = {}

    def cut_by(self, pixels: int) -> Cut:
        """Into programs that walk over tiles of so many pixels."""
        g = self.geometry
        block = pixels // (2 if self.wide else 1)
        blocks, loops = g.blocks(g.samples * self.planes, block, 1 if self.spec.softmax else MOST_LOOPS)
        return Cut(block, blocks, loops, g.samples * self.planes * blocks)

    def doubles(self, *sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.float64, device=self.device)

    def numbers(self) -> Tensor:
        return self.spec.numbers(self.device)

    def walk(self, x, y, mask, pixel_weight, out=None) -> tuple:
        """What every kernel over pixels starts with."""
        a, b, c, d, e = self.strides
        return (x, *a), (y, *b), (mask, *c), (pixel_weight, *d), (out, *e), self.space, self.channels

    def launch(self, key: tuple, make, *arguments) -> Launch:
        """The launch of that name and specialisation, made by `make(*arguments)` when it is first asked for."""
        found = self._launches.get(key)
        if found is None:
            found = self._launches[key] = make(*arguments)
        return found

    def run_pass(
        self, stream, inputs, state, at, numbers, weights=(), grad_output=None, before=None, predicted=None, out=None,
        partial=None,
    ) -> None:  # fmt: skip
        """sigmoid_pass or softmax_pass; sums into `partial` if given, the gradient into `out` if given. `at`: where
        aux and the gradients of the sums begin in `state`."""
        sums, grad = partial is not None, out is not None
        given = before is None, predicted is None
        key = sums, grad, None if grad_output is None else grad_output.dtype, *given, *specialised(weights)
        walk, spec, turn = self.walk(*inputs, out), self.spec, self.rows * self.spec.columns

        def run(launch: Launch, cut: Cut) -> None:
            launch(
                stream, *walk, cut.blocks, cut.loops, spec.ignore_index, numbers, weights, state, *at, grad_output,
                before, predicted, self.elements, partial, turn,
            )  # fmt: skip

        found = self._passes.get(key)
        if found is None:
            found = self._pass(key, sums, grad, run if before is None else None)
        run(*found)

    def _pass(self, key: tuple, sums: bool, grad: bool, run) -> tuple[Launch, Cut]:
        """The launch of a pass and its cut; that of a gradient alone is the fastest of a few, which `run` measures."""
        spec = self.spec
        constants = {
            "terms": spec.pixel_terms, "columns": SUM_COLUMNS, "SUMS": sums, "GRAD": grad, "REGION": spec.region,
            "EXTRA": spec.extra, "IGNORE": self.ignore, "PER_SAMPLE": spec.per_sample, "COLUMNS": spec.columns,
            "WIDTH": spec.width, "T": self.type,
        }  # fmt: skip
        if spec.softmax:
            constants |= {"INDICES": self.indices, "DENSE": self.dense, "TARGETS": spec.weighted and self.indices}
            constants["VALUES"] = sums or bool(spec.topk)
        else:
            constants |= {"HARD": self.hard, "MARGIN": self.margin, "UNBOUNDED": spec.unbounded}
        kernel = softmax.softmax_pass if spec.softmax else sigmoid.sigmoid_pass

        def made(candidate: tuple[int, int]) -> tuple[Launch, Cut]:
            cut = self.cut_by(candidate[0])
            return Launch(kernel, cut.programs, constants | {"BLOCK": cut.block}, candidate[1]), cut

        best: tuple[int, int] | None = self.candidates[0]
        if not sums:
            sizes = (self.channels, self.elements.bit_length(), len(self.space))
            kind = (kernel.__name__, *constants.values(), *self.types, *sizes)
            measured = None if run is None else lambda candidate: run(*made(candidate))
            best = tune.choose(self.candidates, kind, self.device, measured)
        found = made(best or self.candidates[0])
        if best is not None:  # else it could not be measured yet
            self._passes[key] = found
        return found

    def finish(
        self, stream, partial, sums, sums_at, numbers, state, aux, aux_at, loss=None, weights=(), grad_output=None
    ) -> None:
        """From the sums that a pass left in `partial` to those of groups and channels, the loss and its derivatives."""
        g, spec, layout = self.geometry, self.spec, self.layout
        key = ("finish", loss is None, None if grad_output is None else grad_output.dtype, *specialised(weights))
        steps = self.steps(spec.columns)
        self.launch(key, self._finish)(
            stream, partial, sums, sums_at, numbers, weights, state, aux, aux_at, layout.grad_sums_at,
            0 if state is None else state.numel() - 1, loss, grad_output, g.samples // layout.groups, layout.groups,
            self.channels, self.cut.blocks, *steps, self.rows * spec.columns,
        )  # fmt: skip

    def _finish(self) -> Launch:
        spec, groups = self.spec, self.layout.groups
        channels = _power_of_two(self.channels)
        return Launch(
            finalize.finish, groups * self.channels,
            {"terms": spec.terms, "columns": SUM_COLUMNS, "WEIGHTED": spec.weighted and self.indices,
             "SOFTMAX": spec.softmax, "COLUMNS": spec.columns, "WIDTH": spec.width, "TILE": COMBINE_TILE,
             "ALONE": groups * self.channels == 1, "CHANNELS": channels,
             "GROUPS": min(_power_of_two(groups), max(1, FINALIZE_TILE // channels))},
            FINISH_WARPS,
        )  # fmt: skip

    def steps(self, columns: int) -> tuple[int, int, int]:
        """From one row of `partial` to that of the next sample, channel and block."""
        rows = self.channels if self.spec.softmax else 1
        sample = self.planes * self.cut.blocks * rows * columns
        return sample, (1 if self.spec.softmax else self.cut.blocks) * columns, rows * columns

    def elements_into(self, stream, inputs, out, keys, histogram, numbers, term: KernelTerm) -> None:
        """Each element of a term into `out`, or its key for top-k into `keys`."""
        key = ("elements", keys is None or keys.data_ptr() % 16)
        arguments = (self.spec.ignore_index, numbers, keys, histogram)
        loops = () if self.spec.softmax else (self.cut.loops,)
        launch = self.launch(key, self._elements, term, keys is None)
        launch(stream, *self.walk(*inputs, out), self.cut.blocks, *loops, *arguments)

    def _elements(self, term: KernelTerm, values: bool) -> Launch:
        constants = {"terms": (term,), "IGNORE": self.ignore, "T": self.type, "BLOCK": self.cut.block}
        if self.spec.softmax:
            dense = not self.indices or (values and self.spec.smoothing)
            constants |= {"INDICES": self.indices, "DENSE": dense}
            return Launch(softmax.softmax_elements, self.cut.programs, constants)
        constants |= {"HARD": self.hard, "MARGIN": self.margin, "UNBOUNDED": self.spec.unbounded}
        return Launch(sigmoid.sigmoid_elements, self.cut.programs, constants)


_calls = functools.lru_cache(maxsize=1024)(KernelCall)


def specialised(weights: tuple[Tensor, ...]) -> tuple:
    """What kernels are compiled for in weight tensors: inside a tuple Triton looks at alignment whatever is asked."""
    return tuple([(w.dtype, w.data_ptr() % 16 == 0) for w in weights])


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _holds(dtype: torch.dtype, value: int) -> bool:
    """Whether a label of that type can be the ignored one."""
    if dtype.is_floating_point:
        return True
    low, high = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return low <= value <= high
