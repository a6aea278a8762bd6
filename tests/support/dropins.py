"""Every drop-in loss with settings and inputs: what is tested of all of them alike, without their originals."""

import torch

from fastloss.compat import WeightedSum, monai, nnunet, smp
from fastloss.compat import torch as own

SHAPE = (2, 3, 8, 6)
VECTOR = [1.0, 2.0, 0.5]
SOFTMAX = {"to_onehot_y": True, "softmax": True}
SIGMOID = {"to_onehot_y": True, "sigmoid": True}
TRAINER = {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": False}
CLASSES = {"mode": "multiclass"}


def vector():
    return torch.tensor(VECTOR)


def per_channel():
    return vector()[:, None, None]


def ids():
    return torch.randint(0, 3, (2, 8, 6), generator=torch.Generator().manual_seed(1))


def labels():
    return ids()[:, None]


def hot():
    return (torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) < 0.4).float()


# name: (makes the loss, its target); the logits are of SHAPE
FUSED = {
    "torch.CrossEntropyLoss": (lambda: own.CrossEntropyLoss(vector(), label_smoothing=0.1), ids),
    "torch.CrossEntropyLoss-none": (lambda: own.CrossEntropyLoss(reduction="none"), ids),
    "torch.BCEWithLogitsLoss": (lambda: own.BCEWithLogitsLoss(pos_weight=per_channel()), hot),
    "torch.BCEWithLogitsLoss-weight": (lambda: own.BCEWithLogitsLoss(weight=per_channel()), hot),
    "torch.SigmoidFocalLoss": (lambda: own.SigmoidFocalLoss(reduction="mean"), hot),
    "smp.DiceLoss": (lambda: smp.DiceLoss("multiclass", [0, 2], class_weights=VECTOR, smooth=1.0), ids),
    "smp.DiceLoss-soft": (lambda: smp.DiceLoss("multilabel"), hot),
    "smp.JaccardLoss": (lambda: smp.JaccardLoss("multiclass", log_loss=True), ids),
    "smp.TverskyLoss": (lambda: smp.TverskyLoss("multiclass", alpha=0.3, gamma=1.5), ids),
    "smp.FocalLoss": (lambda: smp.FocalLoss("multiclass", alpha=0.3), ids),
    "smp.FocalLoss-weights": (lambda: smp.FocalLoss("multiclass", class_weights=VECTOR), ids),
    "smp.SoftBCEWithLogitsLoss": (lambda: smp.SoftBCEWithLogitsLoss(smooth_factor=0.1, pos_weight=per_channel()), hot),
    "smp.SoftCrossEntropyLoss": (lambda: smp.SoftCrossEntropyLoss(smooth_factor=0.1), ids),
    "monai.DiceLoss": (lambda: monai.DiceLoss(**SOFTMAX, weight=VECTOR, ignore_index=1), labels),
    "monai.DiceLoss-sums": (lambda: monai.DiceLoss(**SOFTMAX, smooth_nr=0.0), labels),
    "monai.DiceLoss-none": (lambda: monai.DiceLoss(sigmoid=True, reduction="none", squared_pred=True), hot),
    "monai.MaskedDiceLoss": (lambda: Masked(monai.MaskedDiceLoss(**SOFTMAX, squared_pred=True)), labels),
    "monai.GeneralizedDiceLoss": (lambda: monai.GeneralizedDiceLoss(**SOFTMAX, w_type="simple"), labels),
    "monai.TverskyLoss": (lambda: monai.TverskyLoss(**SOFTMAX, alpha=0.3, smooth_nr=0.0, batch=True), labels),
    "monai.TverskyLoss-soft": (lambda: monai.TverskyLoss(sigmoid=True, soft_label=True), hot),
    "monai.FocalLoss": (lambda: monai.FocalLoss(to_onehot_y=True, alpha=VECTOR, weight=2.0), labels),
    "monai.FocalLoss-softmax": (lambda: monai.FocalLoss(to_onehot_y=True, use_softmax=True), labels),
    "monai.FocalLoss-sum": (lambda: monai.FocalLoss(to_onehot_y=True, reduction="sum", ignore_index=1), labels),
    "monai.DiceCELoss": (lambda: monai.DiceCELoss(**SOFTMAX, weight=vector(), label_smoothing=0.1), labels),
    "monai.DiceCELoss-two": (lambda: monai.DiceCELoss(**SIGMOID, lambda_ce=0.5), labels),
    "monai.DiceFocalLoss": (lambda: monai.DiceFocalLoss(**SIGMOID, gamma=1.5), labels),
    "monai.DiceFocalLoss-two": (lambda: monai.DiceFocalLoss(**SOFTMAX), labels),
    "monai.GeneralizedDiceFocalLoss": (lambda: monai.GeneralizedDiceFocalLoss(**SIGMOID), labels),
    "nnunet.SoftDiceLoss": (lambda: nnunet.SoftDiceLoss(nnunet.softmax_helper_dim1, ddp=False), labels),
    "nnunet.SoftDiceLoss-clip": (lambda: nnunet.SoftDiceLoss(torch.sigmoid, True, False, 0.1, False, 2.0), hot),
    "nnunet.MemoryEfficientSoftDiceLoss": (
        lambda: nnunet.MemoryEfficientSoftDiceLoss(nnunet.softmax_helper_dim1, **TRAINER), labels),
    "nnunet.RobustCrossEntropyLoss": (lambda: nnunet.RobustCrossEntropyLoss(vector()), labels),
    "nnunet.TopKLoss": (lambda: nnunet.TopKLoss(k=20), labels),
    "nnunet.TopKLoss-smoothing": (lambda: nnunet.TopKLoss(vector(), 2, 20, 0.1), labels),
    "nnunet.DC_and_CE_loss": (lambda: nnunet.DC_and_CE_loss(TRAINER, {"weight": vector()}, ignore_label=2), labels),
    "nnunet.DC_and_topk_loss": (lambda: nnunet.DC_and_topk_loss(TRAINER, {"k": 20}), labels),
    "nnunet.DC_and_BCE_loss": (lambda: nnunet.DC_and_BCE_loss({"pos_weight": torch.tensor(2.0)}, TRAINER), hot),
    "nnunet.DeepSupervisionWrapper": (
        lambda: Pyramid(nnunet.DeepSupervisionWrapper(nnunet.DC_and_CE_loss(TRAINER, {}), (0.7, 0.3))), labels),
    "monai.DeepSupervisionLoss": (
        lambda: Pyramid(monai.DeepSupervisionLoss(monai.DiceCELoss(**SOFTMAX)), whole=True), lambda: labels().float()),
    "WeightedSum": (
        lambda: WeightedSum([(0.5, smp.DiceLoss("multiclass")), (0.5, own.CrossEntropyLoss(vector()))]), ids),
}  # fmt: skip
PLAIN = {  # of probabilities, or sorted: plain PyTorch, arranged by hand
    "smp.DiceLoss-probabilities": (lambda: Probabilities(smp.DiceLoss("multilabel", from_logits=False)), hot),
    "smp.JaccardLoss-probabilities": (
        lambda: Probabilities(smp.JaccardLoss("multilabel", from_logits=False, log_loss=True)), hot),
    "smp.FocalLoss-normalized": (lambda: smp.FocalLoss("multilabel", normalized=True), hot),
    "smp.LovaszLoss": (lambda: smp.LovaszLoss("multiclass"), ids),
    "smp.LovaszLoss-hinge": (lambda: smp.LovaszLoss("multilabel"), hot),
    "smp.MCCLoss": (lambda: Probabilities(smp.MCCLoss()), hot),
    "monai.AsymmetricUnifiedFocalLoss": (
        lambda: Binary(Probabilities(monai.AsymmetricUnifiedFocalLoss(gamma=0.3))), hot),
}  # fmt: skip
DROPINS = FUSED | PLAIN


def logits():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 2


class Around(torch.nn.Module):
    """A drop-in behind what turns the common inputs into its own."""

    def __init__(self, loss, **settings):
        super().__init__()
        self.loss, self.settings = loss, settings


class Masked(Around):
    def forward(self, x, y):
        return self.loss(x, y, (y < 2).to(y.dtype))


class Probabilities(Around):
    def forward(self, x, y):
        return self.loss(x.sigmoid(), y)


class Binary(Around):
    def forward(self, x, y):
        return self.loss(x[:, :1], y[:, :1])


class Pyramid(Around):
    def forward(self, x, y):
        levels = [x, x[..., ::2, ::2]]
        return self.loss(levels, y if self.settings.get("whole") else [y, y[..., ::2, ::2]])
