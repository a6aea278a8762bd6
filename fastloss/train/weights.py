"""An encoder's ImageNet weights: read from a file, or the sentence for those that could not be downloaded."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fastloss.cli import CommandError


def read_weights(path: str | Path, encoder: nn.Module, name: str) -> dict[str, Tensor]:
    """Return every parameter of the encoder; CommandError if the file is broken or of another network."""
    from timm.models import load_state_dict

    try:
        found = load_state_dict(str(path))
    except Exception as error:  # of pickle, zipfile and torch, and safetensors has one that is a bare Exception
        raise CommandError(f"the weights {path} cannot be read ({type(error).__name__})") from error
    missing = [key for key, _ in encoder.named_parameters() if key not in found]
    if missing:
        raise CommandError(f"the weights {path} are not those of {name}: {missing[0]} is missing")
    return found


def not_downloaded(name: str, error: Exception) -> CommandError:
    return CommandError(
        f"--pretrained: the ImageNet weights of {name} could not be downloaded ({type(error).__name__}); train from "
        "random weights with --no-pretrained, name a file with --weights, or put them into the cache of Hugging Face"
    )
