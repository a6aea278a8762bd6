"""What all drop-in losses share: how one names its original, its settings, and why it cannot run fused."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from .. import _arguments as check
from .._modes import dispatches
from ..explanation import Explained, noted, plain

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._linear import Call

_KEPT = 64  # prepared calls of a loss
_changes = [0]  # how often a setting of any drop-in was changed: what was prepared before may be of another
REGISTRY: dict[str, type[CompatLoss]] = {}  # module and name of an original's class -> its drop-in


class CompatLoss(Explained, _Loss):
    """Base of the drop-in losses.

    Attributes:
        fused: whether every call that the kernels can take is fused passes over the inputs.
        why_not_fused: None, or the setting that stands in the way; such a loss runs as plain PyTorch.
        strict: True keeps the original's defects, False mends them (docs: the migration page of the library).

    A subclass names its original in `original`, and in `_paths` where the original keeps a constructor argument under
    another name than the argument's own (`"weight": "cross_entropy.weight"`). It keeps its own settings under the same
    names, so that one table serves `from_original` and `settings`.
    """

    original: ClassVar[str] = ""
    library: ClassVar[str] = ""
    _paths: ClassVar[dict[str, str]] = {}
    _tensors: ClassVar[tuple[str, ...]] = ()  # settings that are tensors: a spec holds their numbers

    _replaced: ClassVar[bool] = False  # whether `forward` is of a subclass that says nothing of the kernels' call

    strict: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if {"forward", "as_call", "_scaled"} & set(vars(cls)):
            cls._replaced = not {"as_call", "_scaled"} & set(vars(cls))
        if cls.original:
            REGISTRY.setdefault(cls.original, cls)

    def __init__(self, reduction: str = "mean", *, strict: bool = True) -> None:
        """Take the arguments of the original, under its names and in its order.

        strict: True keeps the original's defects, False mends them (docs: the migration page of the library).
        """
        super().__init__(reduction=reduction)
        self.strict = bool(strict)
        self._plans: dict[Any, Any] = {}
        self._numbers: dict[str, tuple[Any, tuple[float, ...]]] = {}
        self.register_load_state_dict_post_hook(_loaded)

    @property
    def why_not_fused(self) -> str | None:
        return None

    @property
    def fused(self) -> bool:
        return self.why_not_fused is None

    def as_call(self, *inputs: Any) -> Call | None:
        """Return the one call of the kernels that is this loss of these inputs, or None if it takes other steps.

        Sums of losses join such calls. Raises what the loss raises.
        """
        return None

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        """The constructor arguments that an instance (of the original, or of this class) was made with."""
        names = [name for name in inspect.signature(cls).parameters if name != "strict"]
        return {name: reduce(getattr, cls._paths.get(name, name).split("."), loss) for name in names}

    @classmethod
    def from_original(cls, loss: Any, *, strict: bool = True) -> Self:
        """The drop-in with the settings of an instance of the original."""
        return cls(**cls.arguments(loss), strict=strict)

    def settings(self) -> dict[str, Any]:
        """The constructor arguments in order, but `strict`."""
        return type(self).arguments(self)

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        words = []
        for name, value in {**self.settings(), "strict": self.strict}.items():
            default = parameters[name].default
            if default is inspect.Parameter.empty or not _same(value, default):
                words.append(f"{name}={_text(value)}")
        slow = "" if self.why_not_fused is None else f" [not fused: {self.why_not_fused}]"
        home = ".".join(type(self).__module__.split(".")[:3])  # fastloss.compat.monai, not its file
        return f"{home}.{type(self).__name__}({', '.join(words)}){slow}"

    def __prepare_scriptable__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} of fastloss cannot be scripted; use torch.compile instead.")

    def _cached(self, key: Any, make: Callable[[Any], Any]) -> Any:
        """make(key), kept as long as no setting of this loss and of its parts changes: what a call of these sizes
        needs. Parts that are no drop-ins, and numbers in tensors, belong into the key."""
        if torch.compiler.is_compiling():
            return make(key)
        if torch._C._len_torch_dispatch_stack() > 0:
            key = _fixed(key)
        plans = self._plans
        if plans.get(None) != _changes[0] or len(plans) > _KEPT:
            plans.clear()
            plans[None] = _changes[0]
        found = plans.get(key)
        if found is None:
            found = plans[key] = make(key)
        return found

    def _floats(self, name: str) -> tuple[float, ...]:
        """The numbers of a tensor setting. On the CPU they are read at each call; on a device, where nobody may wait
        for them, if the tensor is another or its version counter says that it was written to. torch.compile takes
        those that were read last."""
        tensor = getattr(self, name)
        if not isinstance(tensor, Tensor):
            return ()
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} of {type(self).__name__} must not require a gradient, which fastloss does not give it; detach "
                "it, or use the original loss."
            )
        found: Any = self._numbers.get(name)
        if torch.compiler.is_compiling() and found is not None:
            return found[1]
        state = None
        if tensor.device.type != "cpu" and not (tensor.is_inference() or _numberless(tensor)):
            state = tensor.data_ptr(), tensor._version
            if found is not None and found[0] == state:
                return found[1]
        if _numberless(tensor):
            raise TypeError(f"{name} of {type(self).__name__} must hold numbers in a call, got {_kind(tensor)}.")
        if tensor.is_complex():
            raise TypeError(f"{name} must hold real numbers, got {str(tensor.dtype).removeprefix('torch.')}.")
        self._numbers[name] = state, tuple(_flat(tensor.tolist()))
        return self._numbers[name][1]

    def _read(self) -> None:
        with torch.no_grad():
            for name in self._tensors:
                self._read_one(name)

    def _read_one(self, name: str) -> None:
        """What torch.compile will take; what holds no numbers yet can still be moved and loaded."""
        tensor = getattr(self, name)
        if not (isinstance(tensor, Tensor) and _numberless(tensor)):
            self._floats(name)

    def _learns(self, *inputs: Tensor | None) -> bool:
        """Whether only plain PyTorch will do: an input or a tensor setting requires a gradient, which the kernels give
        to logits alone, or a setting holds no numbers to read."""
        settings = [t for t in [getattr(self, name) for name in self._tensors] if isinstance(t, Tensor)]
        learning = any([t is not None and t.requires_grad for t in (*inputs, *settings)])
        return (learning and torch.is_grad_enabled()) or any([_numberless(t) for t in settings])

    def __setattr__(self, name: str, value: Any) -> None:
        ready = "_plans" in self.__dict__
        changed = ready and name[0] != "_" and name != "training" and hasattr(self, name)
        super().__setattr__(name, value)
        _changes[0] += changed
        if ready and name in self._tensors:
            with torch.no_grad():
                self._read_one(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._read()

    def _slow(self, why: str) -> None:
        """Says that a call runs as plain PyTorch because of its inputs; once for each reason and loss."""
        if torch.compiler.is_compiling():
            return
        if noted.calls is not None:
            found = plain(type(self).__name__, why)
            noted.calls += [found] if found not in noted.calls else []  # a sum asks twice
            return
        said: set[str] = self.__dict__.setdefault("_said", set())
        if why not in said:
            said.add(why)
            warnings.warn(f"{type(self).__name__} runs as plain PyTorch: {why}.", stacklevel=4)


def _numberless(t: Tensor) -> bool:
    return not torch.compiler.is_compiling() and (t.is_meta or dispatches(t))


def _flat(numbers: Any) -> list[float]:
    if not isinstance(numbers, list):
        return [numbers]
    return [x for part in numbers for x in _flat(part)] if numbers and isinstance(numbers[0], list) else numbers


def _kind(t: Tensor) -> str:
    return "a tensor on the device 'meta'" if t.is_meta else f"a {type(t).__name__}"


def _fixed(key: Any) -> Any:
    """A traced call is for one set of sizes: symbolic ones become numbers."""
    if isinstance(key, tuple):
        return tuple([_fixed(part) for part in key])
    return int(key) if isinstance(key, torch.SymInt) else key


def _loaded(loss: CompatLoss, _: Any) -> None:
    loss._read()


class TargetError(ValueError, RuntimeError, IndexError):
    """A class index or label out of range: the kernels' ValueError, and what the originals' own operations raise."""


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    if isinstance(a, str) and isinstance(b, str):
        return str(a) == str(b)
    return type(a) is type(b) and a == b


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        return check.shown(value)
    if isinstance(value, str):
        return repr(str(value))
    return getattr(value, "__name__", None) or repr(value)
