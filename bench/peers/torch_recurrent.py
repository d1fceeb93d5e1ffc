"""Recurrent cells in PyTorch, over all steps of an input.

Forms: own, the library's layer; user, the cell as a user writes it; hoisted, that with the products of x before the
loop; step, the user's cell with the step alone compiled.
"""

import torch
from serve import DEVICE, Work
from torch.nn import functional as F

OWN = {"rnn_tanh": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def rnn_tanh(wx, h, p):
    h = torch.tanh(wx + F.linear(h, p["U"]))
    return h, h


def lstm_state(gates, c):
    i, f, g, o = gates.chunk(4, 1)
    return torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g), torch.sigmoid(o)


def lstm(wx, state, p):
    h, c = state
    c, o = lstm_state(wx + F.linear(h, p["U"]), c)
    h = o * torch.tanh(c)
    return h, (h, c)


def gru(wx, h, p):
    xr, xz, xn = wx.chunk(3, 1)
    hr, hz, hn = F.linear(h, p["U"], p["c"]).chunk(3, 1)
    z = torch.sigmoid(xz + hz)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    h = (1 - z) * n + z * h
    return h, h


def ligru(wx, h, p):
    z, c = (wx + F.linear(h, p["U"])).chunk(2, 1)
    z = torch.sigmoid(z)
    h = z * h + (1 - z) * torch.relu(c)
    return h, h


def lnlstm(wx, state, p):
    h, c = state
    gates = wx + F.linear(h, p["U"])
    c, o = lstm_state(F.layer_norm(gates, gates.shape[1:], p["a"], p["b"]), c)
    h = o * torch.tanh(F.layer_norm(c, c.shape[1:], p["a2"], p["b2"]))
    return h, (h, c)


CELLS = {"rnn_tanh": rnn_tanh, "lstm": lstm, "gru": gru, "ligru": ligru, "lnlstm": lnlstm}


def project(x, cell, p):
    return F.linear(x, p["W"], None if cell == "lnlstm" else p.get("b"))


def start(cell, x):
    zeros = x.new_zeros(x.shape[1], x.shape[2])
    return (zeros, zeros) if cell.endswith("lstm") else zeros


def user(cell, compiled=None):
    def step(x, state, p):
        return CELLS[cell](project(x, cell, p), state, p)

    if compiled:
        step = compiled(step)

    def run(x, p):
        state, outputs = start(cell, x), []
        for x_t in x.unbind(0):
            h, state = step(x_t, state, p)
            outputs.append(h)
        return torch.stack(outputs)

    return run


def hoisted(cell):
    def run(x, p):
        state, outputs = start(cell, x), []
        for wx_t in project(x, cell, p).unbind(0):
            h, state = CELLS[cell](wx_t, state, p)
            outputs.append(h)
        return torch.stack(outputs)

    return run


def own(cell, p):
    """The layer and its parameters that the workload names; it keeps a second bias of zeros where there is none."""
    width = p["U"].shape[1]
    layer = OWN[cell](width, width, device=DEVICE, dtype=p["U"].dtype).requires_grad_(p["U"].requires_grad)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(p["W"])
        layer.weight_hh_l0.copy_(p["U"])
        layer.bias_ih_l0.copy_(p["b"])
        layer.bias_hh_l0.copy_(p["c"]) if "c" in p else layer.bias_hh_l0.zero_()
    named = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0]
    return (lambda x, _: layer(x)[0]), named, 4 if "c" in p else 3


def tensor(task, name):
    return torch.from_numpy(task.tensors[name]).to(DEVICE, getattr(torch, task.dtype(name)))


def parts(task, compiled):
    """The function of x and p, x, p, and the parameters with how many of them are the workload's."""
    x, learns = tensor(task, "x"), task.options["backward"]
    p = {name: tensor(task, name).requires_grad_(learns) for name in task.tensors if name != "x"}
    if task.form == "own":
        run, parameters, named = own(task.kind, p)
        return run, x, p, parameters, named
    if task.form == "hoisted":
        run = hoisted(task.kind)
    else:
        run = user(task.kind, compiled if task.form == "step" else None)
    return run, x, p, list(p.values()), len(p)


def forward(task, compiled=None):
    run, x, p, *_ = parts(task, compiled)
    return (lambda x: run(x, p)), [x]


def backward(task, compiled):
    run, x, p, parameters, named = parts(task, compiled)
    if task.form == "user":
        run = compiled(run)
    x.requires_grad_()

    def call():
        h = run(x, p)
        grads = torch.autograd.grad(h.sum(), [x, *parameters])
        return [h.detach(), *grads[: named + 1]]

    return Work(call)
