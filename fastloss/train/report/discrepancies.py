"""Where the papers contradict themselves, their libraries or common usage, and what is done here about it."""

from __future__ import annotations

from typing import NamedTuple


class Discrepancy(NamedTuple):
    """Where it stands, what is printed, what is usual or right, and the decision here (with its switch)."""

    where: str
    printed: str
    instead: str
    here: str


def _entries(text: str) -> list[Discrepancy]:
    """Split a list of entries, each with its four parts between double bars."""
    return [Discrepancy(*" ".join(entry.split()).split(" || ")) for entry in text.split("\n- ")[1:]]


PAPER2 = _entries("""
- eq. 1 || log(1 − g) in the second term, and a sum without brackets || log(1 − s), both terms summed || the usual BCE
- eq. 1, text || the sigmoid is applied after the loss || sigmoid first, fused with the logarithm || logits in,
  log-sum-exp inside
- eq. 1, 2 || γ is both the label and the focusing exponent || two names || labels y, exponent gamma
- eq. 2 || g·log s only, summed over classes, no α || smp's focal, which the text says was used, has the branch of the
  background too || both branches
- eq. 3 || 1/N over all pixels, g·log s only || the mean over the kept pixels, CE of both classes || the mean over the
  kept elements
- §3.3, TopK || k = 0.6 and “k%” || nnU-Net's k is a percentage: 0.6% would be 12,582 of 2,097,152 pixels || a
  fraction of 0.6; --topk 0.006 for the other reading
- §3.3, TopK || “taken from PyTorch and segmentation-models-pytorch” || neither has a TopK; nnU-Net's is softmax CE
  and identically 0 with one channel || TopK of BCE
- eq. 4 || one ratio with the sum over classes inside || smp: a ratio for each class, then the mean || the same for
  one class
- eq. 5 || 2Σgs in the numerator of the IoU || Σgs; as printed the loss lies in [−1, 1] || Σgs; --jaccard-numerator 2
  doubles the gradient as printed
- eq. 7 || α on (1 − g)s, β on g(1 − s); the text names them in the other order || α weighs false positives, β false
  negatives || 0.3 on FP, 0.7 on FN; --tversky-fp, --tversky-fn
- §4.1 || a network with sigmoid output || smp's losses and BCEWithLogits apply a sigmoid themselves || logits;
  --double-sigmoid for the other
- §3.3, composites || L = L_A + L_B || unweighted; region terms are 0.3 to 1, distribution terms below 0.01 late in
  training, so the sum is a region loss || as printed; row iou+bce-balanced
- §5, composites || 100 epochs against 50 + 50 || whether Adam's moments and the learning rate are reset at the switch
  is not said || both carry over; --reset-optimizer, --reset-rate
- Fig. 2 || the curve of IoU → Dice illustrates region → distribution || - || row iou-to-dice
- Fig. 3 || shows Dice + TopK and Tversky + TopK, which no table has || - || table figure3, on demand
- Fig. 3 || a region of 150² at x = 200 || beyond 256: figures are on the 512 grid || that region of case 008, slice
  102, wherever the split puts it; else the slice with the largest truth, whole
- Tables 2, 4 || Tversky + BCE 0.7153 ± 0.009 and 0.66 ± 0.03 || different splits; the deviation over folds is 3 to 16
  times that over runs || both splits are trained
- Table 4 || unpaired t, df = 8 || folds are paired, and share training slices || both tests, and the paired one
  corrected for shared slices (Nadeau and Bengio 2003)
- Table 4 || t = 10.23 for the IoU of IoU & TopK; p = 0.0001 || 10.28 from the rounded inputs, where p is below 1e-5
  || both are printed
- §7 || best: IoU → TopK and Tversky → BCE || Table 3: Dice of IoU → BCE (0.7882), IoU of Tversky → BCE || Table 3
  counts
- §7 || “up to 12%” || Table 3 against 2: 9.4 to 11.6% of Dice; Table 4: 13 to 24% || no percentages
- §6 || 0.78 against 0.56 of the MSD challenge || 2D slices of an own split against 3D volumes of a hidden test set ||
  not compared
- §3.1 || BCE is “especially effective” under class imbalance || unweighted BCE is the classic weak case || -
- §4.2 || 13,486 images, 10,788 of them to train || all axial slices of the 126 training volumes, cut at floor(0.8·n):
  at most one patient straddles the cut || --split index:80/20 or patient:80/20
- §4, §5 || window, augmentation, encoder weights, plateau's factor and patience, seeds and what ± is over, rule for
  empty slices, threshold, choice of the epoch: none is stated || the mean IoU exceeds D/(2 − D), so scores are
  averaged, not pooled; with empties at 1 Dice would exceed 0.9 || settings, listed above with their values
- input || neither the encoder's weights nor a normalisation is stated || smp's ImageNet weights expect colours of
  ImageNet's mean and deviation || preset paper: those weights, and grey from 0 to 1 as it is, three times;
  --normalise imagenet
- Table 1 || single losses for 50 epochs against 100 of Tables 2 and 3 || the authors name the gap || the controls:
  each distribution loss for all epochs
""")

PAPER1 = _entries("""
- data || Synapse and ACDC || 52,156,519 parameters are LeViT-UNet-384 with THREE classes; the text describes stomach
  and intestines; rate, sizes and log names are those of a Kaggle notebook: the numbers are most likely from
  UW-Madison GI tract MRI || --dataset uwmgi for its recipe; synapse and acdc as named
- training || Adam, rate 2e-3, 30 epochs; no schedule, weight decay or augmentation is stated || the Kaggle template
  has a cosine rate, weight decay 1e-6, and flips, shifts, distortions and holes || the template's: --rate-schedule
  cosine, --weight-decay 1e-6, --augment uwmgi (synapse, acdc: TransUNet's)
- training || the order of augmentation and resize is not stated || TransUNet augments at full size and resizes then
  || resized first, which is faster; --augment-first for TransUNet's order
- input || neither the encoder's weights nor a normalisation is stated || the template loads ImageNet's, which expect
  colours of ImageNet's mean; timm sums them for one channel || preset paper: timm's, and grey from 0 to 1 as it is;
  --normalise imagenet (the colours' average)
- Table 2 || baseline Dice 0.7853 || LeViT-UNet's published Synapse score is 78.53 with 9 classes and 52.17 M
  parameters: copied or coincidence, we cannot tell || trained here
- Table 2 || “Best Dice”, “Validation” || best and last epoch on the one validation fold; no test set || both are
  printed; --split patient:70/10/20 for a test part
- Table 2 || validation losses 0.02467 and 0.14535 || different losses: not comparable || printed,
  differences in brackets
- Table 2 || the modified loss “significantly outperforms” || one seed, one fold; the last epoch's Dice is lower
  (0.78214, 0.77675) || --seeds
- Table 2 || the baseline loss is not named || the template has 0.5 BCE + 0.5 Tversky, LeViT-UNet CE + Dice ||
  --baseline template or levit-unet
- Tables 2, 3 || parameters in “Million”, FLOPs in millions and in G, “FLOPs / inference time” mixed || 52.16 M; 25.5
  GMAC for a slice; 150 matches nothing || parameters, MAC and time are measured
- Table 3 || memory 198.96 MB against 15 to 30 GB || the first is the size of the weights || peak memory of one
  inference is measured
- Table 3 || Swin-Net, UNETR, nnU-Net || 3D networks from other papers on other data || quoted, and marked
- Dice || 2·|A∩B| / |A+B|, “improves as it approaches one”, inside αDice + βFocal || the loss is 1 − Dice || 0.5·(1 −
  Dice) + 0.5·Focal
- focal || γ = 1 “works like cross-entropy”; γ and α are not stated || γ = 0 does || γ = 2, no α
- focal, text || reduces positives, “minimize loss of positive samples (background)” || weighs down easy samples of
  either class || -
- focal || α is both its class weight and the mixing weight || two quantities || mixing weight 0.5
- focal || of classes || smp's is one-vs-rest sigmoid || softmax; --activation sigmoid for the other
- Table 1 || TopK is boundary-based, Combo stands there too || distribution-based; a compound || -
- §3.3 || positives contribute much more gradient than negatives || the reverse for a rare foreground || -
""")
