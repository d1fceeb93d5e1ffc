"""Recurrent cells in JAX, lax.scan under jit. Forms: user, and hoisted: the products of x before the loop."""

import jax
from jax import lax, nn
from jax import numpy as jnp
from jax_networks import layer_norm
from serve import Work


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


def recurrence(task):
    cell, p = task.kind, {name: jnp.array(t, task.dtype(name)) for name, t in task.tensors.items()}
    x = p.pop("x")

    def run(x, p):
        zeros = jnp.zeros(x.shape[1:], x.dtype)
        state = (zeros, zeros) if cell.endswith("lstm") else zeros
        if task.form == "hoisted":
            return lax.scan(lambda state, wx: CELLS[cell](wx, state, p), state, project(x, cell, p))[1]
        return lax.scan(lambda state, x: CELLS[cell](project(x, cell, p), state, p), state, x)[1]

    def train(x, p):
        h, backward = jax.vjp(run, x, p)
        x_grad, grads = backward(jnp.ones_like(h))
        return [h, x_grad, *(grads[name] for name in task.tensors if name != "x")]

    step = jax.jit(train if task.options["backward"] else lambda x, p: [run(x, p)])
    return Work(lambda: step(x, p))
