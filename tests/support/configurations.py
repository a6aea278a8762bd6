"""Random settings and inputs of MONAI's losses, some of them errors: what a user may pass."""

import random

import torch

SPACES = {1: (7,), 2: (5, 6), 3: (3, 4, 5)}


MISTAKES = ("activation", "weight", "encoding", "samples", "axes", "range")


class Draw(random.Random):
    """Random choices, and at most one mistake among them."""

    def __init__(self, seed):
        super().__init__(seed)
        self.mistake = self.choice(MISTAKES) if self.random() < 0.2 else None


def activation(r):
    if r.mistake == "activation":
        return {"sigmoid": True, "softmax": True}
    return r.choice(
        ({"sigmoid": True}, {"sigmoid": True}, {"softmax": True}, {"softmax": True}, {}, {"other_act": torch.tanh})
    )


def overlap(r):
    return activation(r) | {
        "include_background": r.random() < 0.6,
        "to_onehot_y": r.random() < 0.5,
        "reduction": r.choice(("mean", "sum", "none")),
        "smooth_nr": r.choice((1e-5, 1e-3, 1.0)),
        "smooth_dr": r.choice((1e-5, 1e-3, 1.0)),
        "batch": r.random() < 0.5,
    }


def weights(r, channels, background=True):
    """None, a number, or one for each class that counts."""
    if r.mistake == "weight":
        return r.choice(([1.0] * 7, [-1.0] * channels))
    vector = [0.5, 2.0, 1.0, 0.25][: max(1, channels - (not background))]
    return r.choice((None, None, 2.0, vector, torch.tensor(vector, dtype=torch.float64)))


def dice(r, channels):
    form = {name: r.random() < 0.3 for name in ("squared_pred", "jaccard", "soft_label")}
    found = overlap(r) | form
    found["weight"] = weights(r, channels, found["include_background"])
    return found | {"ignore_index": r.choice((None, None, 0, 1, 255))}


def masked(r, channels):
    found = dice(r, channels)
    found.pop("ignore_index")
    return found


def generalized(r, channels):
    return overlap(r) | {"w_type": r.choice(("square", "simple", "uniform")), "soft_label": r.random() < 0.3}


def tversky(r, channels):
    numbers = {"alpha": r.choice((0.3, 0.7)), "beta": r.choice((0.3, 1.0)), "soft_label": r.random() < 0.3}
    return overlap(r) | numbers | {"ignore_index": r.choice((None, None, 0, 1, 255))}


def focal(r, channels):
    background = r.random() < 0.6
    vector = [0.5, 2.0, 1.0, 0.25][: max(1, channels - (not background))]
    return {
        "include_background": background,
        "to_onehot_y": r.random() < 0.5,
        "gamma": r.choice((0.0, 1.0, 2.0, 1.5)),
        "alpha": r.choice((None, None, 0.3, [0.5] * 7 if r.mistake == "weight" else vector)),
        "weight": weights(r, channels, background),
        "reduction": r.choice(("mean", "sum", "none")),
        "use_softmax": r.random() < 0.5,
        "ignore_index": r.choice((None, None, 0, 1, 255)),
    }


def without(settings, *names):
    return {name: value for name, value in settings.items() if name not in names}


def dice_ce(r, channels):
    found = without(dice(r, channels), "soft_label", "ignore_index")
    weight = r.choice((None, torch.tensor([0.5, 2.0, 1.0, 0.25][:channels], dtype=torch.float64)))
    parts = {
        "lambda_dice": r.choice((1.0, 0.3)),
        "lambda_ce": r.choice((1.0, 2.0)),
        "label_smoothing": r.choice((0.0, 0.1)),
    }
    return found | parts | {"weight": weight}


def dice_focal(r, channels):
    found = without(dice(r, channels), "soft_label", "ignore_index")
    parts = {"lambda_dice": r.choice((1.0, 0.3)), "lambda_focal": r.choice((1.0, 2.0))}
    return found | parts | {"gamma": r.choice((2.0, 1.5)), "alpha": r.choice((None, 0.3))}


def generalized_focal(r, channels):
    found = without(generalized(r, channels), "soft_label")
    parts = {"lambda_gdl": r.choice((1.0, 0.3)), "lambda_focal": r.choice((1.0, 2.0))}
    return found | parts | {"gamma": r.choice((2.0, 1.5)), "weight": weights(r, channels, found["include_background"])}


SETTINGS = {
    "DiceLoss": dice,
    "MaskedDiceLoss": masked,
    "GeneralizedDiceLoss": generalized,
    "TverskyLoss": tversky,
    "FocalLoss": focal,
    "DiceCELoss": dice_ce,
    "DiceFocalLoss": dice_focal,
    "GeneralizedDiceFocalLoss": generalized_focal,
}


def inputs(r, channels, to_onehot):
    """Logits and a target."""
    space = SPACES[r.choice((1, 2, 2, 3))]
    x = torch.randn(2, channels, *space, dtype=torch.float64)
    if (to_onehot and channels > 1) != (r.mistake == "encoding"):
        y = torch.randint(0, max(channels, 2), (2, 1, *space))
        if r.random() < 0.3:
            y[y == 1] = 0
        y = y + 5 if r.mistake == "range" else y
        y = r.choice((y, y.float(), y.int()))
    else:
        hard = torch.rand(x.shape) < 0.4
        y = r.choice((torch.rand(x.shape), hard.float(), hard.double(), hard.long(), hard))
        if r.random() < 0.3 and channels > 1:
            y[:, 1] = 0
    y = y[:1] if r.mistake == "samples" else y
    return x, y[:, 0] if r.mistake == "axes" else y


def draw(name, seed):
    """(settings, inputs, note) of a seed."""
    r = Draw(seed)
    torch.manual_seed(seed)
    channels = r.choice((1, 2, 3, 4))
    settings = SETTINGS[name](r, channels)
    x, y = inputs(r, channels, settings.get("to_onehot_y", False))
    if y.shape[1] == 1 and settings.get("ignore_index") is not None and y.dtype != torch.bool and r.mistake is None:
        y[torch.rand(y.shape) < 0.3] = settings["ignore_index"]
    args = [x, y]
    if name == "MaskedDiceLoss" and r.random() < 0.9:
        mask = torch.rand(r.choice((1, 2)), 1, *x.shape[2:]) < 0.6
        args.append(r.choice((mask, mask.float(), torch.rand(mask.shape))))
    return settings, args, f"{name} seed {seed}: {settings}, {list(x.shape)}, {list(y.shape)} {y.dtype}, {r.mistake}"
