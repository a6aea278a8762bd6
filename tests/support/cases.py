"""What is tested: backends, losses by mode, inputs by dtype and layout, and the oracle. Shared by all test files."""

import inspect
import os

import torch

import fastloss as fl
from fastloss import _library, triton

MODES = ("binary", "multilabel", "multiclass")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # which PyTorch itself hardly computes with
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *UNSIGNED)
CHANNELS = {"binary": 1, "multilabel": 3, "multiclass": 3}
SHAPES = {mode: (4, channels, 13, 11) for mode, channels in CHANNELS.items()}

DEVICES = {"reference": "cpu", "cpu": "cpu", "cuda": "cuda", "triton": "cuda"}
WAITS = [name for name, device in DEVICES.items() if device == "cpu"]  # backends that look at the targets' values
ASKED = os.environ.get("FASTLOSS_TEST_BACKENDS", ",".join(fl.backends.NAMES)).split(",")
BACKENDS = [name for name, why_not in fl.backends.available().items() if why_not is None and name in ASKED]
if _library.EMULATED:  # test_emulated.py: only the CUDA kernels, on the CPU
    DEVICES["cuda"], BACKENDS = "cpu", ["cuda"]
if triton.interpreted():
    DEVICES["triton"] = "cpu"
COMPILED = [name for name in BACKENDS if name != "reference"]

SIGMOID, SINGLE, CLASSES = MODES[:2], MODES[1:2], MODES[2:]
MANY = MODES[1:]
VECTOR = [0.5, 2.0, 1.25]

# name, modes, class, keyword arguments
ROWS = [
    ("bce", SIGMOID, fl.BCEWithLogitsLoss, {}),
    ("bce-pos_weight", SIGMOID, fl.BCEWithLogitsLoss, {"pos_weight": 2.5}),
    ("bce-pos_weights", SINGLE, fl.BCEWithLogitsLoss, {"pos_weight": VECTOR}),
    ("bce-smoothing", SIGMOID, fl.BCEWithLogitsLoss, {"label_smoothing": 0.1, "pos_weight": 0.5}),
    ("bce-sum", SIGMOID, fl.BCEWithLogitsLoss, {"reduction": "sum"}),
    ("ce", CLASSES, fl.CrossEntropyLoss, {}),
    ("ce-weights", CLASSES, fl.CrossEntropyLoss, {"class_weights": VECTOR}),
    ("ce-smoothing", CLASSES, fl.CrossEntropyLoss, {"label_smoothing": 0.1}),
    ("ce-weights-smoothing", CLASSES, fl.CrossEntropyLoss, {"class_weights": VECTOR, "label_smoothing": 0.3}),
    ("ce-sum", CLASSES, fl.CrossEntropyLoss, {"reduction": "sum", "class_weights": VECTOR}),
    *((f"focal-{gamma}", MODES, fl.FocalLoss, {"gamma": gamma}) for gamma in (0.0, 0.5, 1.0, 1.5, 2.0, 5.0)),
    ("focal-alpha", MODES, fl.FocalLoss, {"alpha": 0.25}),
    ("focal-alphas", MANY, fl.FocalLoss, {"alpha": [0.25, 0.5, 0.9], "gamma": 1.0}),
    ("focal-sum", MODES, fl.FocalLoss, {"reduction": "sum"}),
    ("poly", MODES, fl.PolyLoss, {}),
    ("poly-smoothing", MODES, fl.PolyLoss, {"eps": -0.7, "label_smoothing": 0.2, "reduction": "sum"}),
    ("poly-pos_weight", SIGMOID, fl.PolyLoss, {"eps": 2.0, "pos_weight": 2.5}),
    ("poly-weights", CLASSES, fl.PolyLoss, {"eps": 0.5, "class_weights": VECTOR}),
    ("explog", MODES, fl.ExpLogCrossEntropyLoss, {"gamma": 1.5}),
    ("explog-2", MODES, fl.ExpLogCrossEntropyLoss, {"gamma": 2.0}),
    ("explog-pos_weight", SIGMOID, fl.ExpLogCrossEntropyLoss, {"gamma": 0.3, "pos_weight": 2.5}),
    ("explog-weights", CLASSES, fl.ExpLogCrossEntropyLoss, {"gamma": 1.2, "class_weights": VECTOR, "reduction": "sum"}),
    ("topk", MODES, fl.TopKLoss, {}),
    ("topk-0.6", MODES, fl.TopKLoss, {"k": 0.6}),
    ("topk-all", MODES, fl.TopKLoss, {"k": 1.0}),
    ("topk-sum", MODES, fl.TopKLoss, {"k": 0.29, "reduction": "sum"}),
    ("dice", MODES, fl.DiceLoss, {}),
    ("dice-smooth", MODES, fl.DiceLoss, {"smooth": 1.0, "eps": 1e-3}),
    ("dice-log", MODES, fl.DiceLoss, {"log_loss": True}),
    ("dice-squared", MODES, fl.DiceLoss, {"squared": True}),
    ("dice-l1", MODES, fl.DiceLoss, {"soft": "l1"}),
    ("dice-l1-squared", MODES, fl.DiceLoss, {"soft": "l1", "squared": True}),
    ("dice-skip", MODES, fl.DiceLoss, {"empty": "skip"}),
    ("dice-score", MODES, fl.DiceLoss, {"empty": "score", "smooth": 0.5}),
    ("dice-sample-zero", MODES, fl.DiceLoss, {"batch": False, "empty": "zero"}),
    ("dice-sample-skip", MODES, fl.DiceLoss, {"batch": False, "empty": "skip"}),
    ("dice-sample-score", MODES, fl.DiceLoss, {"batch": False, "empty": "score", "smooth": 0.5}),
    ("dice-classes", MANY, fl.DiceLoss, {"classes": [0, 2]}),
    ("dice-weights", MANY, fl.DiceLoss, {"class_weights": VECTOR}),
    ("dice-classes-weights", MANY, fl.DiceLoss, {"classes": [1, 2], "class_weights": VECTOR, "empty": "skip"}),
    ("dice-log_cosh", MODES, fl.DiceLoss, {"curve": "log_cosh"}),
    ("dice-root", MODES, fl.DiceLoss, {"curve": "root", "gamma": 0.5, "batch": False, "empty": "skip"}),
    ("dice-exponential", MODES, fl.DiceLoss, {"curve": "log", "gamma": 0.3}),
    ("jaccard", MODES, fl.JaccardLoss, {}),
    ("jaccard-gamma", MODES, fl.JaccardLoss, {"gamma": 2.0}),
    ("jaccard-log", MODES, fl.IoULoss, {"log_loss": True, "smooth": 0.1}),
    ("tversky", MODES, fl.TverskyLoss, {"alpha": 0.3, "beta": 0.7}),
    ("tversky-gamma", MODES, fl.TverskyLoss, {"alpha": 0.3, "beta": 0.7, "gamma": 0.75, "smooth": 0.1}),
    ("unified", CLASSES, fl.UnifiedFocalLoss, {"num_classes": 3}),
    ("unified-symmetric", CLASSES, fl.UnifiedFocalLoss, {"num_classes": 3, "asymmetric": False, "weight": 0.3}),
    ("mcc", MODES, fl.MCCLoss, {}),
    ("mcc-sample", MODES, fl.MCCLoss, {"smooth": 1.0, "batch": False, "empty": "skip"}),
    ("mcc-classes", MANY, fl.MCCLoss, {"class_weights": VECTOR, "classes": [0, 2], "empty": "score"}),
    ("generalized", MODES, fl.GeneralizedDiceLoss, {}),
    ("generalized-sample", MODES, fl.GeneralizedDiceLoss, {"batch": False, "empty": "score", "smooth": 5e-6}),
    ("generalized-simple", MANY, fl.GeneralizedDiceLoss, {"weighting": "simple", "classes": [1, 2], "empty": "skip"}),
    ("tvmf", MODES, fl.TvMFDiceLoss, {}),
    ("tvmf-sample", MANY, fl.TvMFDiceLoss, {"kappa": [0.0, 2.0, 8.0], "batch": False, "empty": "skip"}),
    ("dou", MODES, fl.BoundaryDoULoss, {}),
    ("dou-sample", MODES, fl.BoundaryDoULoss, {"cap": 0.3, "smooth": 0.5, "batch": False, "empty": "score"}),
    ("sensitivity", MODES, fl.SensitivitySpecificityLoss, {}),
    (
        "sensitivity-sample",
        MODES,
        fl.SensitivitySpecificityLoss,
        {"sensitivity": 0.7, "batch": False, "empty": "score"},
    ),
    ("weighted", MODES, fl.WeightedSoftDiceLoss, {}),
    ("weighted-sample", MODES, fl.WeightedSoftDiceLoss, {"smooth": 0.5, "batch": False, "empty": "skip"}),
    ("tversky-sample", MODES, fl.TverskyLoss, {"alpha": 1.5, "gamma": 1.5, "batch": False, "empty": "skip"}),
]
COMPOUNDS = {
    "mcc+focal": lambda m: sum(
        weight * loss
        for weight, loss in (
            (1.0, fl.MCCLoss(m, batch=False, empty="zero")),
            (0.3, fl.FocalLoss(m)),
            (-0.5, fl.GeneralizedDiceLoss(m)),
            (0.1, fl.TvMFDiceLoss(m)),
            (0.7, fl.BoundaryDoULoss(m)),
            (1.3, fl.SensitivitySpecificityLoss(m)),
            (0.2, fl.DiceLoss(m, soft="l1")),
        )
    ),
    "dice+focal": lambda m: 0.5 * fl.DiceLoss(m) + 0.5 * fl.FocalLoss(m, gamma=2.0),
    "tversky+crossentropy": lambda m: fl.TverskyLoss(m, alpha=0.3, beta=0.7) + crossentropy(m),
    "iou+topk": lambda m: fl.IoULoss(m) + fl.TopKLoss(m, k=0.6),
    "difference": lambda m: fl.DiceLoss(m, squared=True) - crossentropy(m) / 4,
    "tensors": lambda m: torch.tensor(0.3) * fl.DiceLoss(m) + torch.tensor(2.0, dtype=torch.float64) * crossentropy(m),
    "everything": lambda m: sum(
        weight * loss
        for weight, loss in (
            (0.7, crossentropy(m, label_smoothing=0.05)),
            (1.5, fl.FocalLoss(m, gamma=1.5, alpha=0.3)),
            (0.4, fl.TopKLoss(m, k=0.3)),
            (0.2, fl.TopKLoss(m, k=0.9)),
            (1.0, fl.DiceLoss(m, squared=True, soft="l1", smooth=0.1)),
            (-0.3, fl.JaccardLoss(m, batch=False, empty="skip")),
            (0.6, fl.TverskyLoss(m, alpha=0.2, beta=0.9, gamma=1.3)),
            (0.3, fl.TverskyLoss(m, alpha=0.7, curve="log_cosh")),
        )
    ),
}
LOSSES = {f"{m}:{name}": (m, owner, kwargs) for name, modes, owner, kwargs in ROWS for m in modes}
LOSSES |= {f"{m}:{name}": (m, make, None) for name, make in COMPOUNDS.items() for m in MODES}
CORE = [f"{m}:{name}" for m in MODES for name in ("dice+focal", "iou+topk", "everything")]


def crossentropy(mode, **kwargs):
    return fl.CrossEntropyLoss(**kwargs) if mode == "multiclass" else fl.BCEWithLogitsLoss(mode, **kwargs)


def build(name, **settings):
    """The loss of that name in LOSSES; settings (ignore_index=…) only for those of one term."""
    mode, make, kwargs = LOSSES[name]
    return make(mode) if kwargs is None else make(mode, **{**kwargs, **settings})


def logits(shape, dtype=torch.float32, layout="contiguous", scale=3.0):
    """Random logits; "sliced" is a view with gaps on every axis, "transposed" one with exchanged spatial axes."""
    if layout == "sliced":
        big = torch.randn([2 * shape[0], *[n + 3 for n in shape[1:-1]], 2 * shape[-1] + 1]) * scale
        return big.to(dtype)[(slice(1, None, 2), *[slice(2, 2 + n) for n in shape[1:-1]], slice(1, None, 2))]
    x = (torch.randn(shape) * scale).to(dtype)
    if layout == "channels_last":
        return x.to(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if layout == "transposed" else x


def target(mode, shape, kind=torch.int64):
    """Labels of a dtype, or "soft" / "probabilities"; the last class is absent from sample 0."""
    if mode == "multiclass":
        if kind == "probabilities":
            return torch.softmax(torch.randn(shape) * 2, 1)
        ids = torch.randint(0, shape[1], (shape[0], *shape[2:]))
        ids[:1][ids[:1] == shape[1] - 1] = 0
        return ids.to(kind)
    if kind == "soft":
        y = torch.rand(shape)
        y[torch.rand(shape) < 0.2] = 1.0
        y[torch.rand(shape) < 0.2] = 0.0
        return y
    y = torch.rand(shape) < 0.4
    y[:1, -1] = False
    return y.to(kind)


def run(loss, x, y, backend, mask=None, pixel_weight=None, upstream=1.0):
    """(value, gradient times upstream) on `backend`, back where x was; x is not touched."""
    home = x.device
    device = home if backend == "reference" else DEVICES[backend]
    x, y, mask, pixel_weight = [t if t is None else t.detach().to(device) for t in (x, y, mask, pixel_weight)]
    x.requires_grad_()
    with fl.backends.use(backend):
        value = loss.to(device)(x, y, mask, pixel_weight)
    (grad,) = torch.autograd.grad(value, x, torch.full_like(value, upstream))
    return value.detach().to(home), grad.to(home)


def oracle(loss, x, y, mask=None, pixel_weight=None, upstream=1.0):
    """The reference backend in float64, on the very numbers of x."""
    x = x.detach().double().contiguous()
    y, pixel_weight = [t.double() if t is not None and t.is_floating_point() else t for t in (y, pixel_weight)]
    return run(loss, x, y, "reference", mask, pixel_weight, upstream)


# functional forms and their classes
FORMS = {
    "bce_with_logits_loss": fl.BCEWithLogitsLoss,
    "boundary_dou_loss": fl.BoundaryDoULoss,
    "boundary_loss": fl.BoundaryLoss,
    "cross_entropy_loss": fl.CrossEntropyLoss,
    "dice_loss": fl.DiceLoss,
    "exp_log_cross_entropy_loss": fl.ExpLogCrossEntropyLoss,
    "focal_loss": fl.FocalLoss,
    "generalized_dice_loss": fl.GeneralizedDiceLoss,
    "iou_loss": fl.IoULoss,
    "jaccard_loss": fl.JaccardLoss,
    "mcc_loss": fl.MCCLoss,
    "poly_loss": fl.PolyLoss,
    "sensitivity_specificity_loss": fl.SensitivitySpecificityLoss,
    "topk_loss": fl.TopKLoss,
    "tversky_loss": fl.TverskyLoss,
    "tvmf_dice_loss": fl.TvMFDiceLoss,
    "unified_focal_loss": fl.UnifiedFocalLoss,
    "weighted_soft_dice_loss": fl.WeightedSoftDiceLoss,
}
NEEDED = {fl.UnifiedFocalLoss: {"num_classes": 3}}  # settings without which three channels do not fit


def target_of(owner, mode, shape):
    """Labels, or distances for a boundary loss."""
    return torch.randn(shape) * 5 if owner is fl.BoundaryLoss else target(mode, shape)


def default_mode(owner):
    """The mode of a class that is not told any; "multiclass" where it is the only one."""
    return inspect.signature(owner).parameters["mode"].default
