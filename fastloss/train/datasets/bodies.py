"""Generated anatomy: ellipsoids in a noisy volume, learnable by a small network, of no medical meaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blob:
    """An ellipsoid. Coordinates run from -1 to 1 over the volume, in the order (z, y, x), y from front to back.

    Attributes:
        label: 0 for what is not to be found.
        value: its intensity.
        centre, radii: before the random variation of a patient.
    """

    label: int
    value: float
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


WHOLE = 9.0  # a radius along z that makes a column of it
# Both kidneys have one intensity, and so have spine and vessels: position has to be learnt, too.
TORSO = (Blob(0, -100, (0, 0, 0), (WHOLE, 0.78, 0.92)), Blob(0, 45, (0, 0, 0), (WHOLE, 0.68, 0.84)))
SPINE = Blob(0, 230, (0, 0.5, 0), (WHOLE, 0.15, 0.14))
ORGANS = (
    Blob(5, 100, (0.1, -0.12, -0.42), (0.8, 0.4, 0.33)),  # liver
    Blob(8, 15, (0.2, -0.3, 0.36), (0.6, 0.2, 0.24)),  # stomach
    Blob(7, 120, (0.2, 0.12, 0.64), (0.5, 0.2, 0.13)),  # spleen
    Blob(3, 160, (-0.2, 0.32, 0.42), (0.5, 0.15, 0.14)),  # left kidney
    Blob(4, 160, (-0.2, 0.32, -0.42), (0.5, 0.15, 0.14)),  # right kidney
    Blob(6, 75, (0.0, -0.02, 0.12), (0.35, 0.08, 0.26)),  # pancreas
    Blob(2, 0, (0.0, -0.34, -0.2), (0.3, 0.12, 0.1)),  # gallbladder
    Blob(1, 200, (0, 0.24, 0.06), (WHOLE, 0.08, 0.08)),  # aorta
)
CT_NOISE, MR_NOISE = 15.0, 0.06
LESION = 150.0  # HU


def vary(blobs: tuple[Blob, ...], rng: np.random.Generator, shift: float = 0.04) -> list[Blob]:
    """Make the blobs of one patient: each moved a little and up to 15% larger or smaller."""
    result = []
    for blob in blobs:
        centre = np.array(blob.centre) + rng.uniform(-shift, shift, 3)
        radii = np.array(blob.radii) * rng.uniform(0.85, 1.15, 3)
        result.append(Blob(blob.label, blob.value, tuple(centre), tuple(radii)))
    return result


def paint(blobs: list[Blob], shape: tuple[int, int, int], background: float) -> tuple[np.ndarray, np.ndarray]:
    """Paint (image float32, labels uint8) [D, H, W]; a later blob covers earlier ones."""
    image = np.full(shape, background, np.float32)
    labels = np.zeros(shape, np.uint8)
    for blob in blobs:
        inside = _inside(blob, shape)
        image[inside], labels[inside] = blob.value, blob.label
    return image, labels


def _inside(blob: Blob, shape: tuple[int, int, int]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(-1, 1, side * 1j) if side > 1 else slice(0, 1) for side in shape)]
    return sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(axes, blob.centre, blob.radii)) <= 1


def abdomen(rng: np.random.Generator, shape: tuple[int, int, int], tumour: bool) -> tuple[np.ndarray, np.ndarray]:
    """Make a CT volume in HU. The labels are the eight organs of Synapse, or 1 for a lesion on one of the bowel
    loops."""
    blobs, organs = vary(TORSO, rng, 0.01) + vary((SPINE,), rng), vary(ORGANS, rng)
    if tumour:
        # Without contrast agent, so that no organ has the intensity of a lesion.
        organs = [Blob(0, min(blob.value, 90), blob.centre, blob.radii) for blob in organs] + _bowel(rng, shape[0])
    image, labels = paint(blobs + organs, shape, -1000)
    return image + rng.normal(0, CT_NOISE, shape).astype(np.float32), labels


def _bowel(rng: np.random.Generator, slices: int) -> list[Blob]:
    """Make loops with water or gas, one of them with a lesion of two slices or more."""
    loops = []
    for angle in np.linspace(0, 2 * np.pi, 7)[:-1] + rng.uniform(0, 1):
        centre = (rng.uniform(-0.6, 0.6), -0.1 + 0.42 * np.sin(angle), 0.52 * np.cos(angle))
        radius = rng.uniform(0.08, 0.13)
        loops.append(Blob(0, float(rng.choice([-700, 10])), centre, (0.5, radius, radius)))
    host = loops[int(rng.integers(len(loops)))]
    side = rng.uniform(0, 2 * np.pi)
    z, y, x = host.centre
    centre = (z, y + host.radii[1] * np.sin(side), x + host.radii[1] * np.cos(side))
    thickness = max(rng.uniform(0.08, 0.2), 2.1 / slices)
    return [*loops, Blob(1, LESION, centre, (thickness, rng.uniform(0.07, 0.15), rng.uniform(0.07, 0.15)))]


def heart(rng: np.random.Generator, shape: tuple[int, int, int], phases: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a cine series [T, D, H, W] in arbitrary units: 1 right ventricle, 2 myocardium, 3 left ventricle. It
    contracts to the middle of the series."""
    offset, size = rng.uniform(-0.08, 0.08, 2), rng.uniform(0.85, 1.15)
    gain, images, labels = rng.uniform(200, 600), [], []
    for phase in range(phases):
        blood = size * (1 - 0.3 * np.sin(np.pi * phase / max(phases - 1, 1)))
        centre = (0.0, *offset)
        right = (0.0, offset[0] - 0.02, offset[1] - 0.24)
        blobs = [
            Blob(0, 0.45, (0, 0, 0), (WHOLE, 0.85, 0.9)),
            Blob(0, 0.1, (0, -0.2, 0.5), (WHOLE, 0.4, 0.3)),  # a lung
            Blob(1, 0.9, right, (1.1, 0.26 * blood, 0.2 * blood)),
            Blob(2, 0.3, centre, (1.2, 0.25 * size, 0.25 * size)),
            Blob(3, 0.95, centre, (1.15, 0.17 * blood, 0.17 * blood)),
        ]
        image, label = paint(blobs, shape, 0.02)
        images.append(np.clip(image + rng.normal(0, MR_NOISE, shape), 0, None) * gain)
        labels.append(label)
    return np.stack(images).astype(np.float32), np.stack(labels)


def gut(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make an MR volume [D, H, W] from 0 to 1 and overlapping masks [D, 3, H, W]: large bowel, small bowel, stomach.
    The slices at both ends have none, as in the real scans."""
    blobs = [Blob(0, 0.35, (0, 0, 0), (WHOLE, 0.7, 0.85)), Blob(3, 0.6, (0.35, -0.25, 0.3), (0.35, 0.22, 0.28))]
    for angle in rng.uniform(0, 2 * np.pi, 5):
        blobs.append(Blob(2, 0.8, (-0.3, 0.2 * np.sin(angle), 0.25 * np.cos(angle)), (0.4, 0.12, 0.14)))
    for angle in np.linspace(0.2, np.pi - 0.2, 5):
        blobs.append(Blob(1, 0.15, (-0.2, 0.3 - 0.5 * np.sin(angle), 0.6 * np.cos(angle)), (0.5, 0.12, 0.13)))
    blobs = vary(tuple(blobs), rng)
    image, _ = paint(blobs, shape, 0.02)
    masks = np.zeros((shape[0], 3, *shape[1:]), np.uint8)
    for blob in blobs:
        if blob.label:
            masks[:, blob.label - 1] |= _inside(blob, shape)
    return np.clip(image + rng.normal(0, MR_NOISE, shape), 0, 1).astype(np.float32), masks
