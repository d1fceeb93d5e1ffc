"""JAX as a peer: lax.scan under jit. workload.py says what is computed."""

import jax
import peer
from jax import lax, nn
from jax import numpy as jnp


def layer_norm(v, gain, bias):
    v = v - v.mean(1, keepdims=True)
    return v * lax.rsqrt(jnp.square(v).mean(1, keepdims=True) + 1e-5) * gain + bias


def rnn_tanh(wx, h, p):
    h = jnp.tanh(wx + h @ p["U"].T)
    return h, h


def lstm_state(gates, c):
    i, f, g, o = jnp.split(gates, 4, 1)
    return nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g), nn.sigmoid(o)


def lstm(wx, state, p):
    h, c = state
    c, o = lstm_state(wx + h @ p["U"].T, c)
    h = o * jnp.tanh(c)
    return (h, c), h


def gru(wx, h, p):
    xr, xz, xn = jnp.split(wx, 3, 1)
    hr, hz, hn = jnp.split(h @ p["U"].T + p["c"], 3, 1)
    z = nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + nn.sigmoid(xr + hr) * hn)
    h = (1 - z) * n + z * h
    return h, h


def ligru(wx, h, p):
    z, c = jnp.split(wx + h @ p["U"].T, 2, 1)
    z = nn.sigmoid(z)
    h = z * h + (1 - z) * nn.relu(c)
    return h, h


def lnlstm(wx, state, p):
    h, c = state
    c, o = lstm_state(layer_norm(wx + h @ p["U"].T, p["a"], p["b"]), c)
    h = o * jnp.tanh(layer_norm(c, p["a2"], p["b2"]))
    return (h, c), h


CELLS = {"rnn_tanh": rnn_tanh, "lstm": lstm, "gru": gru, "ligru": ligru, "lnlstm": lnlstm}


def project(x, cell, p):
    wx = x @ p["W"].T
    return wx + p["b"] if "b" in p and cell != "lnlstm" else wx


def make(cell, size, form):
    x, p = jax.device_put(peer.tensors(cell, size))

    def run(x, p):
        zeros = jnp.zeros(x.shape[1:], x.dtype)
        state = (zeros, zeros) if cell.endswith("lstm") else zeros
        if form == "hoisted":
            return lax.scan(lambda state, wx: CELLS[cell](wx, state, p), state, project(x, cell, p))[1]
        return lax.scan(lambda state, x: CELLS[cell](project(x, cell, p), state, p), state, x)[1]

    forward = jax.jit(run)
    train = jax.jit(jax.value_and_grad(lambda x, p: run(x, p).sum(), (0, 1)))

    def gradients():
        _, (x_grad, grads) = jax.block_until_ready(train(x, p))
        return x_grad, *grads.values()

    return lambda: jax.block_until_ready(forward(x, p)), gradients


def main():
    args = peer.arguments(__doc__, ["jax"])
    peer.measure(args, jax.__version__, lambda _: ["user", "hoisted"], make)


if __name__ == "__main__":
    main()
