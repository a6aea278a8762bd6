"""`fastloss.fuse`: the fused module of a loss of another library, with the same settings."""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import nn

from ..compound import Criterion
from ..deep import HOOKS, DeepSupervisionLoss
from ..schedule import LossSchedule
from ._base import REGISTRY, CompatLoss
from ._sum import WeightedSum

if TYPE_CHECKING:
    from ._verify import Report

LIBRARIES = {"segmentation_models_pytorch": "smp", "monai": "monai", "nnunetv2": "nnunet", "torch": "torch"}


class NotFusable(ValueError):
    """A loss that `fuse` cannot replace; the sentence names the setting that stands in the way."""


@overload
def fuse(
    loss: Any, verify: Literal[False] = False, *, strict: bool = True, shape: Any = None, inputs: Any = None
) -> nn.Module: ...


@overload
def fuse(
    loss: Any, verify: Literal[True], *, strict: bool = True, shape: Any = None, inputs: Any = None
) -> tuple[nn.Module, Report]: ...


def fuse(
    loss: Any, verify: bool = False, *, strict: bool = True, shape: Any = None, inputs: Any = None
) -> nn.Module | tuple[nn.Module, Report]:
    """The fused module with the settings of a loss of another library: same call, same numbers.

        criterion = fastloss.fuse(smp.losses.DiceLoss("multiclass"))

    Args:
        loss: an instance of a loss of segmentation-models-pytorch 0.6.0, MONAI 1.6.1 or nnU-Net 2.8.1 that
            `fastloss.compat` has, of nnU-Net's `DeepSupervisionWrapper` or MONAI's `DeepSupervisionLoss`, of
            `torch.nn.CrossEntropyLoss` or `torch.nn.BCEWithLogitsLoss`; `torchvision.ops.sigmoid_focal_loss` or a
            `functools.partial` of it; a list of pairs (weight, loss) of such, or a `fastloss.compat.WeightedSum`. What
            `torch.compile` wrapped is unwrapped; losses of fastloss come back as they are.
        verify: also runs both on random inputs and returns a report of difference, time and memory beside the module.
        strict: False mends what the original plainly gets wrong (docs: the migration page of the library).
        shape: of the logits for `verify`, [N, C, *S]; for deep supervision of the finest level.
        inputs: the inputs for `verify` instead of random ones.

    Raises:
        NotFusable: no fused equivalent; the sentence names the setting or the class.
        ValueError: verify without shape or inputs.
    """
    fused = _converted(loss, strict)
    if not verify:
        return fused
    from ._verify import verify as run

    return fused, run(loss, fused, shape, inputs)


def _converted(loss: Any, strict: bool) -> nn.Module:
    loss = getattr(loss, "_orig_mod", loss)  # torch.compile's wrapper
    if isinstance(loss, WeightedSum):
        return WeightedSum([(w, _converted(part, strict)) for w, part in zip(loss.weights, loss.losses)])
    if isinstance(loss, list | tuple):
        return WeightedSum([(weight, _converted(part, strict)) for weight, part in _pairs(loss)])
    if isinstance(loss, DeepSupervisionLoss):
        return _with_inner(loss, "criterion", strict)
    if isinstance(loss, CompatLoss):
        return _checked(loss)
    if isinstance(loss, Criterion | LossSchedule):
        return loss
    if not isinstance(loss, nn.Module):
        return _function(loss, strict)
    return _checked(_drop_in(loss, strict))


def _pairs(pairs: Any) -> list[tuple[float, Any]]:
    if not all([isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs]):
        raise NotFusable("a list of losses must hold pairs (weight, loss).")
    return list(pairs)


def _with_inner(loss: DeepSupervisionLoss, name: str, strict: bool) -> nn.Module:
    inner = getattr(loss, name)
    fused = _converted(inner, strict)
    if fused is inner:
        return loss
    return DeepSupervisionLoss(fused, loss.weights, interpolation=loss.interpolation)


def _function(loss: Any, strict: bool) -> nn.Module:
    """torchvision's focal loss, which is a function."""
    from .torch import SigmoidFocalLoss

    inner, keywords = (loss.func, loss.keywords) if isinstance(loss, partial) else (loss, {})
    home = getattr(inner, "__module__", ""), getattr(inner, "__name__", type(inner).__name__)
    if home != ("torchvision.ops.focal_loss", "sigmoid_focal_loss"):
        raise NotFusable(f"{home[1]} is no loss that fastloss knows.")
    if isinstance(loss, partial) and loss.args:
        raise NotFusable("sigmoid_focal_loss has positional arguments bound, which stand for its inputs.")
    unknown = sorted(set(keywords) - {"alpha", "gamma", "reduction"})
    if unknown:
        raise NotFusable(f"sigmoid_focal_loss has {unknown[0]} bound, which is none of alpha, gamma and reduction.")
    return _made(SigmoidFocalLoss, keywords, strict, "sigmoid_focal_loss")


def _drop_in(loss: nn.Module, strict: bool) -> nn.Module:
    owner = type(loss)
    name = owner.__name__
    known = next((base for base in owner.__mro__ if _known(base) is not None), None)
    if known is None:
        raise NotFusable(f"{name} of {owner.__module__} is no loss that fastloss knows.")
    changed = _overridden(owner, known) or [method for method in ("forward", "__call__") if method in vars(loss)]
    if changed:
        raise NotFusable(f"{name} has its own {changed[0]} instead of that of {known.__name__}.")
    hooks = [hook for hook in HOOKS if getattr(loss, hook, None)]
    if hooks:
        raise NotFusable(f"{name} has hooks ({hooks[0].strip('_')}), which a fused loss would not run.")
    drop_in = _known(known)
    assert drop_in is not None
    try:
        settings = drop_in.arguments(loss)
    except (AttributeError, KeyError) as error:
        raise NotFusable(f"{name} lacks a setting of {known.__name__}, {error}.") from error
    inner = settings.get("loss")
    if isinstance(inner, nn.Module):
        settings["loss"] = _converted(inner, strict)
    fused: Any = _made(drop_in, settings, strict, name)
    if hasattr(fused, "_adopt"):
        fused._adopt(loss)
    return fused.train(loss.training).to(_device(loss))


def _known(owner: type) -> type[CompatLoss] | None:
    """The drop-in for a class of another library, which need not be imported for this."""
    library = LIBRARIES.get(owner.__module__.split(".")[0])
    if library is not None:
        importlib.import_module(f"{__package__}.{library}")
    return REGISTRY.get(f"{owner.__module__}.{owner.__qualname__}")


def _overridden(owner: type, known: type) -> list[str]:
    """Methods of the known class that a subclass replaces (its constructor and texts may differ)."""
    harmless = {"__init__", "__repr__", "extra_repr", "__module__", "__doc__", "__qualname__"}
    between = owner.__mro__[: owner.__mro__.index(known)]
    return [
        name
        for base in between
        for name, value in vars(base).items()
        if name not in harmless and hasattr(known, name) and (callable(value) or isinstance(value, property))
    ]


def _made(drop_in: type[CompatLoss], settings: dict[str, Any], strict: bool, name: str) -> nn.Module:
    try:
        return drop_in(**settings, strict=strict)
    except (TypeError, ValueError) as error:
        raise NotFusable(f"{name} has a setting that does not fit: {error}") from error


def _checked(loss: Any) -> nn.Module:
    if loss.why_not_fused is not None:
        raise NotFusable(f"{type(loss).__name__} of {loss.library} has no fused form: {loss.why_not_fused}.")
    return loss


def _device(loss: nn.Module) -> Any:
    tensor = next((t for t in (*loss.parameters(), *loss.buffers())), None)
    return "cpu" if tensor is None else tensor.device
