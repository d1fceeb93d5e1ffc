"""Networks as functions of x and named parameters, in JAX. Images are [n, h, w, c], their weights [h, w, in, out]."""

import math

import jax
from jax import lax, nn
from jax import numpy as jnp

BLOCKS = [3, 4, 6, 3]  # of ResNet-50


def dense(p, name, x):
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def conv(p, name, x, stride=1, padding="VALID"):
    y = lax.conv_general_dilated(
        x, p[f"{name}.weight"], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def max_pool(x, window, stride, padding="VALID"):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding)


def avg_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def by_channel(x):
    """The elements of images in the order that the dense layer's weights are for."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def mlp(p, x, _):
    for i in (0, 2):
        x = nn.relu(dense(p, i, x))
    return dense(p, 4, x)


def tiny(p, x, _):
    return dense(p, 2, nn.relu(dense(p, 0, x)))


def fashion(p, x, how):
    x = x[..., None]
    for name in ("conv1", "conv2"):
        x = max_pool(nn.relu(conv(p, name, x)), 2, 2)
    x = nn.relu(dense(p, "hidden", by_channel(x)))
    if not how.exact:
        x = jnp.where(jax.random.bernoulli(how.key, 0.5, x.shape), x * 2, 0)
    return dense(p, "out", x)


def lenet(p, x, _):
    x = avg_pool(jnp.tanh(conv(p, "conv1", x[..., None], padding="SAME")))
    x = avg_pool(jnp.tanh(conv(p, "conv2", x)))
    x = jnp.tanh(dense(p, "dense1", by_channel(x)))
    return dense(p, "out", jnp.tanh(dense(p, "dense2", x)))


def conv_norm(p, x, name, how, stride=1):
    y = conv(p, f"{name}.conv", x, stride, "SAME")
    x = y.astype(jnp.float32)
    if how.training:
        mean = x.mean((0, 1, 2))
        variance = jnp.square(x).mean((0, 1, 2)) - jnp.square(mean)
    else:
        mean, variance = jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1])
    factor = p[f"{name}.norm.scale"] * lax.rsqrt(variance + 1e-5)
    return ((x - mean) * factor + p[f"{name}.norm.shift"]).astype(y.dtype)


def block(p, x, name, how, stride):
    y = nn.relu(conv_norm(p, x, f"{name}.narrow", how))
    y = nn.relu(conv_norm(p, y, f"{name}.middle", how, stride))
    y = conv_norm(p, y, f"{name}.wide", how)
    return nn.relu(y + (conv_norm(p, x, f"{name}.skip", how, stride) if f"{name}.skip.conv.weight" in p else x))


def resnet50(p, x, how):
    x = max_pool(nn.relu(conv_norm(p, x, "stem", how, 2)), 3, 2, "SAME")
    for stage, count in enumerate(BLOCKS, 1):
        for i in range(count):
            x = block(p, x, f"stage{stage}.{i}", how, 2 if stage > 1 and i == 0 else 1)
    return dense(p, "head", x.mean((1, 2)))


def layer_norm(x, scale=1.0, shift=0.0):
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5) * scale + shift).astype(x.dtype)


def transformer(p, x, how):
    """A block of an encoder, normalised before each part."""
    n, steps, width = x.shape
    y = dense(p, "inputs", layer_norm(x, p["norm1.scale"], p["norm1.shift"]))
    q, k, v = (t.reshape(n, steps, how.heads, -1).transpose(0, 2, 1, 3) for t in jnp.split(y, 3, 2))
    weights = nn.softmax(q @ k.transpose(0, 1, 3, 2) / math.sqrt(width // how.heads))
    x = x + dense(p, "output", (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape))
    y = dense(p, "wide", layer_norm(x, p["norm2.scale"], p["norm2.shift"]))
    return x + dense(p, "narrow", nn.gelu(y, approximate=False))


def network(kind):
    """Parameters are f32: all but those of batch norms are cast to what x is of."""

    def run(p, x, how):
        p = {name: t if ".norm." in name else t.astype(x.dtype) for name, t in p.items()}
        return NETWORKS[kind](p, x, how)

    return run


NETWORKS = {
    "mlp": mlp,
    "tiny": tiny,
    "fashion": fashion,
    "lenet": lenet,
    "resnet50": resnet50,
    "transformer": transformer,
}
