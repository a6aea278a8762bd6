"""Every number that the two papers report, as printed; nothing here was measured by us.

Paper 1: Oshah et al. 2025, "Enhancing Medical Image Segmentation Based on Loss Functions Integration".
Paper 2: Ferreira de Souza and Machado, "Dynamic Alteration of the Loss Function in Convolutional Neural Networks for
Medical Image Segmentation". Rows have the names that `--rows` takes.
"""

from __future__ import annotations

from typing import NamedTuple


class Score(NamedTuple):
    """Mean and standard deviation of Dice and IoU, fractions of 1."""

    dice: float
    dice_sd: float
    iou: float
    iou_sd: float


class Test(NamedTuple):
    """One metric of paper 2's Table 4 over five folds: composite, altered, t and p as printed."""

    composite: float
    composite_sd: float
    altered: float
    altered_sd: float
    t: float
    p: float


PAPER2: dict[str, dict[str, Score]] = {
    "table1": {
        "focal": Score(0.7538, 0.0062, 0.6342, 0.0060),
        "topk": Score(0.7465, 0.0142, 0.6265, 0.0154),
        "bce": Score(0.7462, 0.0111, 0.6324, 0.0140),
        "dice": Score(0.6976, 0.0132, 0.5792, 0.0134),
        "iou": Score(0.6759, 0.0151, 0.5582, 0.0164),
        "tversky": Score(0.6740, 0.0290, 0.5469, 0.0329),
    },
    "table2": {
        "tversky+bce": Score(0.7153, 0.0088, 0.5985, 0.0103),
        "iou+bce": Score(0.7060, 0.0030, 0.5912, 0.0027),
        "iou+topk": Score(0.7034, 0.0026, 0.5897, 0.0023),
        "dice+focal": Score(0.6983, 0.0018, 0.5828, 0.0019),
    },
    "table3": {
        "dice-to-focal": Score(0.7642, 0.0054, 0.6507, 0.0067),
        "dice-to-topk": Score(0.7734, 0.0068, 0.6608, 0.0081),
        "dice-to-bce": Score(0.7758, 0.0083, 0.6574, 0.0083),
        "iou-to-focal": Score(0.7769, 0.0035, 0.6558, 0.0036),
        "iou-to-topk": Score(0.7851, 0.0078, 0.6689, 0.0077),
        "iou-to-bce": Score(0.7882, 0.0052, 0.6750, 0.0054),
        "tversky-to-focal": Score(0.7583, 0.0056, 0.6426, 0.0063),
        "tversky-to-topk": Score(0.7842, 0.0089, 0.6667, 0.0084),
        "tversky-to-bce": Score(0.7866, 0.0122, 0.6754, 0.0129),
    },
}

FOLDS = 5
PAPER2_TABLE4: dict[tuple[str, str], dict[str, Test]] = {  # (composite, altered): metric: numbers
    ("tversky+bce", "tversky-to-bce"): {
        "dice": Test(0.66, 0.03, 0.78, 0.02, 7.44, 0.0001),
        "iou": Test(0.54, 0.03, 0.67, 0.02, 8.06, 0.0001),
    },
    ("iou+bce", "iou-to-bce"): {
        "dice": Test(0.65, 0.03, 0.77, 0.03, 6.32, 0.0002),
        "iou": Test(0.56, 0.03, 0.67, 0.03, 5.80, 0.0004),
    },
    ("iou+topk", "iou-to-topk"): {
        "dice": Test(0.63, 0.02, 0.78, 0.02, 11.86, 0.0001),
        "iou": Test(0.54, 0.02, 0.67, 0.02, 10.23, 0.0001),
    },
    ("dice+focal", "dice-to-focal"): {
        "dice": Test(0.67, 0.03, 0.76, 0.02, 5.58, 0.0005),
        "iou": Test(0.57, 0.03, 0.65, 0.03, 4.22, 0.0029),
    },
}

PAPER1_TABLE2: dict[str, tuple[float, float]] = {  # quantity: (baseline, modified)
    "best_epoch": (29, 23),
    "best_dice": (0.7853, 0.79954),
    "best_iou": (0.7310, 0.73653),
    "train_loss": (0.0705, 0.06794),
    "valid_loss": (0.02467, 0.14535),
    "last_dice": (0.78214, 0.77675),
    "last_iou": (0.71328, 0.71341),
    "parameters": (52_170_000, 52_156_519),
}


class System(NamedTuple):
    """One column of paper 1's Table 3. Parameters in millions; `flops` without the unit, which the paper mixes up."""

    title: str
    parameters: float
    flops: float
    dice: float
    iou: float
    dataset: str
    memory: str | None


PAPER1_TABLE3: dict[str, System] = {
    "levit-unet-384": System("Modified LeViT-UNet", 52.156519, 150, 0.79954, 0.7365, "Synapse, ACDC", "198.96 MB"),
    "swin-unetr": System("Swin net", 61.98, 394.84, 0.81, 0.76, "Synapse", "29.87 GB"),
    "transunet": System("TransUNet", 105, 1186.9, 0.77, 0.71, "Synapse", None),
    "medt": System("Medical Transformer", 70, 290, 0.85, 0.79, "Synapse, ACDC", "24.66 GB"),
    "unetr": System("UNETR", 92.5, 41.1, 0.89, 0.78, "Synapse, ACDC", "19.52 GB"),
    "nnunet": System("nnU-Net", 87.98, 8712.56, 0.91, 0.84, "ACDC", "15.06 GB"),
}
