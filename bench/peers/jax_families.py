"""The workloads in JAX, each one function under jit. Each function takes a Task and gives a Work."""

import types

import jax
import jax_networks as networks
import jax_recurrent as recurrent
from jax import nn
from jax import numpy as jnp
from serve import Work


def lstm_gates(i, f, g, o, c):
    c = nn.sigmoid(i) * c + nn.sigmoid(f) * jnp.tanh(g)
    return [c, nn.sigmoid(o) * jnp.tanh(c)]


def gelu12(a, b, c):
    x = a + b
    t = jnp.tanh((x + x * x * x * 0.044715) * 0.7978846)
    return [(t + 1) * 0.5 * x * 1.5 + c]


def cheap5(a, b, c):
    return [nn.relu(a * b + c) * 1.5 - a]


def ten_ops(a, b, c):
    y = nn.relu(a * b + c) * 1.5 - a
    return [(jnp.abs(y) + b) * c * 0.5 - b]


CHAINS = {"lstm_gates": lstm_gates, "gelu12": gelu12, "cheap5": cheap5, "ten_ops": ten_ops}


def arrays(task):
    return {name: jnp.array(t, task.dtype(name)) for name, t in task.tensors.items()}


def chain(task):
    body, arguments = CHAINS[task.kind], list(arrays(task).values())
    if task.options.get("halved"):
        run = jax.jit(lambda a, b, c: body(a[:, : a.shape[1] // 2], b, c))
    else:
        run = jax.jit(body)
    return Work(lambda: run(*arguments))


def rms_norm(x):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


def loss_of_rows(x, y):
    return -jnp.take_along_axis(nn.log_softmax(x), y[:, None], 1).mean()


NORMS = {
    "softmax": nn.softmax,
    "layer_norm": networks.layer_norm,
    "rms_norm": rms_norm,
    "affine_norm": networks.layer_norm,
}


def rows(task):
    arguments = list(arrays(task).values())
    if task.kind == "cross_entropy":
        run = jax.jit(jax.value_and_grad(loss_of_rows))
        return Work(lambda: run(*arguments))
    norm = NORMS[task.kind]

    def gradient(*given):
        *leaves, dy = given
        y, backward = jax.vjp(norm, *leaves)
        return [y, *backward(dy)]

    run = jax.jit(gradient if task.options["backward"] else lambda x: [norm(x)])
    return Work(lambda: run(*arguments))


def linear(task):
    x, w, b, *dy = arrays(task).values()

    def layer(x, w, b):
        y = x @ w + b
        return [nn.gelu(y) if task.kind == "gelu" else nn.relu(y)]

    def gradient(x, w, b, dy):
        [y], backward = jax.vjp(layer, x, w, b)
        return [y, *backward([dy])]

    if dy:
        run = jax.jit(gradient)
        return Work(lambda: run(x, w, b, *dy))

    if task.options["constant"]:
        run = jax.jit(lambda x: layer(x, w, b))
        return Work(lambda: run(x))
    run = jax.jit(layer)
    return Work(lambda: run(x, w, b))


def formatted(t):
    """Weights of convolutions are [h, w, in, out]."""
    return t.transpose(2, 3, 1, 0) if t.ndim == 4 else t


def as_told(t):
    return t.transpose(3, 2, 0, 1) if t.ndim == 4 else t


def images(x):
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def setting(task, key=None):
    heads = task.options.get("heads")
    return types.SimpleNamespace(exact=task.exact, training=task.family == "train", heads=heads, key=key)


def parameters(task, but):
    return {name: jnp.array(formatted(t)) for name, t in arrays(task).items() if name not in but}


def forward(task):
    x, p, how = images(arrays(task)["x"]), parameters(task, ["x"]), setting(task)
    net = networks.network(task.kind)
    run = jax.jit(lambda p, x: [net(p, x, how)])
    return Work(lambda: run(p, x))


def sgd(lr):
    def update(p, state, grads):
        state = jax.tree.map(lambda v, g: 0.9 * v + g, state, grads)
        return jax.tree.map(lambda p, v: p - lr * v, p, state), state

    return lambda p: jax.tree.map(jnp.zeros_like, p), update


def adam(lr):
    def update(p, state, grads):
        step, m, v = state
        step = step + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * jnp.square(g), v, grads)
        size, root = lr / (1 - 0.9**step), 1 / jnp.sqrt(1 - 0.999**step)
        new = jax.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) * root + 1e-8), p, m, v)
        return new, (step, m, v)

    def begin(p):
        return jnp.float32(0), *(jax.tree.map(jnp.zeros_like, p) for _ in range(2))

    return begin, update


def train(task):
    given = arrays(task)
    x, y, p, net = images(given["x"]), given["y"], parameters(task, ["x", "y"]), networks.network(task.kind)
    before = jax.tree.map(jnp.copy, p)
    begin, update = {"sgd": sgd, "adam": adam}[task.options["optimizer"]](task.options["lr"])

    def loss_of(p, x, y, key):
        logits = net(p, x, setting(task, key)).astype(jnp.float32)
        return -jnp.take_along_axis(nn.log_softmax(logits), y[:, None], 1).mean()

    def step(p, state, key, x, y):
        key, own = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_of)(p, x, y, own)
        return loss, *update(p, state, grads), key

    run = jax.jit(step, donate_argnums=(0, 1, 2))
    now = [p, begin(p), jax.random.key(0)]

    def call():
        loss, *now[:] = run(*now, x, y)
        return [loss]

    return Work(call, lambda: [as_told(now[0][name] - before[name]) for name in p])


def transformer(task):
    """Forward and backward: the gradients of x and of all parameters."""
    given, p, how = arrays(task), parameters(task, ["x", "dy"]), setting(task)
    names, net = list(p), networks.network("transformer")  # under jit they come sorted

    def step(p, x, dy):
        y, backward = jax.vjp(lambda p, x: net(p, x, how), p, x)
        grads, x_grad = backward(dy)
        return [y, x_grad, *(grads[name] for name in names)]

    run = jax.jit(step)
    return Work(lambda: run(p, given["x"], given["dy"]))


FAMILIES = {
    "chain": chain,
    "rows": rows,
    "linear": linear,
    "forward": forward,
    "train": train,
    "transformer": transformer,
    "recurrence": recurrent.recurrence,
}
