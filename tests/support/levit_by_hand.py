"""LeViT-UNet written out from its description, as a function of a state dict: an oracle that shares no code with timm.

Images [N, C, 224, 224]. Batch norm is in inference form, a linear layer is a matrix product, the attention bias of two
places is looked up by their distance, upsampling is a product with interpolation matrices.
"""

import torch

HEADS = {"128s": (4, 6, 8), "192": (3, 5, 6), "384": (6, 9, 12)}
KEY = {"128s": 16, "192": 32, "384": 32}
BLOCKS = {"128s": (2, 3, 4), "192": (4, 4, 4), "384": (4, 4, 4)}
SIDES = (14, 7, 4)


def norm(x, w, name, channel=1):
    """(x - mean) / sqrt(var + eps), scaled and shifted, along one axis."""
    shape = [1] * x.ndim
    shape[channel] = -1
    mean, var, weight, bias = (w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    scale = weight / (var + 1e-5).sqrt()
    return x * scale.reshape(shape) + (bias - mean * scale).reshape(shape)


def hardswish(x):
    return x * (x + 3).clamp(0, 6) / 6


def conv(x, weight, stride=1):
    """3x3 with padding 1, as nine shifted products."""
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    total = 0
    for i in range(3):
        for j in range(3):
            part = padded[:, :, i : i + height : stride, j : j + width : stride]
            total = total + torch.einsum("nchw,oc->nohw", part, weight[:, :, i, j])
    return total


def linear(x, w, name):
    """Tokens [N, T, C]: a matrix product, then batch norm over the channels."""
    return norm(x @ w[f"{name}.linear.weight"].T, w, f"{name}.bn", channel=2)


def bias(table, side, step=1):
    """[heads, queries, keys]: the table's entry for |dy| * side + |dx| between a query's and a key's place."""
    keys = [(y, x) for y in range(side) for x in range(side)]
    queries = [(y, x) for y, x in keys if y % step == 0 and x % step == 0]
    return torch.stack([
        torch.stack([table[:, abs(qy - y) * side + abs(qx - x)] for y, x in keys], -1) for qy, qx in queries
    ], 1)  # fmt: skip


def attend(q, k, v, table):
    """[N, T, heads, d] each; the softmax is over the keys."""
    scores = torch.einsum("nqhd,nkhd->nhqk", q, k) * q.shape[-1] ** -0.5 + table
    return hardswish(torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v).flatten(2))


def block(x, w, name, heads, key, side):
    """Attention and MLP, each added to what goes in."""
    qkv = linear(x, w, f"{name}.attn.qkv").unflatten(2, (heads, 4 * key))
    q, k, v = qkv[..., :key], qkv[..., key : 2 * key], qkv[..., 2 * key :]  # attn_ratio 2
    x = x + linear(attend(q, k, v, bias(w[f"{name}.attn.attention_biases"], side)), w, f"{name}.attn.proj.ln")
    return x + mlp(x, w, f"{name}.mlp")


def mlp(x, w, name):
    return linear(hardswish(linear(x, w, f"{name}.ln1")), w, f"{name}.ln2")


def shrink(x, w, name, heads, key, side):
    """Attention whose queries are every second token of both axes; nothing is added to it, the MLP follows."""
    kv = linear(x, w, f"{name}.attn_downsample.kv").unflatten(2, (heads, 5 * key))  # attn_ratio 4
    k, v = kv[..., :key], kv[..., key:]
    fewer = x.unflatten(1, (side, side))[:, ::2, ::2].flatten(1, 2)
    q = linear(fewer, w, f"{name}.attn_downsample.q.ln").unflatten(2, (heads, key))
    table = bias(w[f"{name}.attn_downsample.attention_biases"], side, step=2)
    x = linear(attend(q, k, v, table), w, f"{name}.attn_downsample.proj.ln")
    return x + mlp(x, w, f"{name}.mlp")


def up(x, side):
    """Bilinear, corners on corners."""
    old = x.shape[-1]
    at = torch.arange(side, dtype=x.dtype) * (old - 1) / (side - 1)
    weights = (1 - (at[:, None] - torch.arange(old)).abs()).clamp(min=0)
    return torch.einsum("yh,nchw,xw->ncyx", weights, x, weights)


def twice(x, w, name):
    """The decoder's block; its layers are numbered 0 conv, 1 norm, 2 ReLU, 3 conv, 4 norm, 5 ReLU."""
    for first in (0, 3):
        x = norm(conv(x, w[f"{name}.{first}.weight"]), w, f"{name}.{first + 1}").clamp(min=0)
    return x


def forward(x, w, variant):
    """Logits [N, classes, 224, 224] of LeViT-UNet with the weights `w`."""
    skips = []
    for number in (1, 2, 3, 4):
        x = norm(conv(x, w[f"stem.conv{number}.linear.weight"], stride=2), w, f"stem.conv{number}.bn")
        x = hardswish(x) if number < 4 else x
        skips.append(x)
    tokens, maps, key = x.flatten(2).transpose(1, 2), [], KEY[variant]
    for stage, (heads, blocks, side) in enumerate(zip(HEADS[variant], BLOCKS[variant], SIDES)):
        if stage:
            width = tokens.shape[2]
            name = f"stages.{stage}.downsample"
            tokens = shrink(tokens, w, name, width // key, key, SIDES[stage - 1])
        for number in range(blocks):
            tokens = block(tokens, w, f"stages.{stage}.blocks.{number}", heads, key, side)
        maps.append(tokens.transpose(1, 2).unflatten(2, (side, side)))
    c1, c2, c3, c4 = skips
    s1, s2, s3 = maps
    x = twice(up(torch.cat([c4, s1, up(s2, 14), up(up(up(s3, 8), 16), 14)], 1), 28), w, "up1")
    x = twice(up(torch.cat([x, c3], 1), 56), w, "up2")
    x = twice(up(torch.cat([x, c2], 1), 112), w, "up3")
    x = conv(torch.cat([x, c1], 1), w["head.weight"]) + w["head.bias"].reshape(1, -1, 1, 1)
    return up(x, 224)
