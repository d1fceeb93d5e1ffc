"""PyTorch as a peer: eager, with one step compiled, or with the whole loop. workload.py says what is computed."""

import peer
import torch
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


def user(cell, compiled_step):
    def step(x, state, p):
        return CELLS[cell](project(x, cell, p), state, p)

    if compiled_step:
        step = torch.compile(step, dynamic=False)

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
    layer = OWN[cell](width, width)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(p["W"])
        layer.weight_hh_l0.copy_(p["U"])
        layer.bias_ih_l0.copy_(p["b"])
        layer.bias_hh_l0.copy_(p["c"]) if "c" in p else layer.bias_hh_l0.zero_()
    named = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0]
    return (lambda x, _: layer(x)[0]), named, 4 if "c" in p else 3


def make(how, cell, size, form):
    x, p = peer.tensors(cell, size)
    x = torch.from_numpy(x)
    p = {name: torch.from_numpy(value).requires_grad_() for name, value in p.items()}
    parameters, checked = list(p.values()), len(p)
    if form == "own":
        run, parameters, checked = own(cell, p)
    elif form == "hoisted":
        run = hoisted(cell)
    else:
        run = user(cell, how == "torch-compile-step")
    if how == "torch-compile":
        run = torch.compile(run, dynamic=False)
    x_leaf = x.clone().requires_grad_()

    def forward():
        with torch.inference_mode():
            return run(x, p)

    def train():
        grads = torch.autograd.grad(run(x_leaf, p).sum(), [x_leaf, *parameters])
        return grads[: checked + 1]

    return forward, train


def main():
    args = peer.arguments(__doc__, ["torch", "torch-compile", "torch-compile-step"])
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)

    def forms(cell):
        if args.peer != "torch":
            return ["user"]
        return ["own", "user", "hoisted"] if cell in OWN else ["user", "hoisted"]

    peer.measure(args, torch.__version__, forms, lambda *what: make(args.peer, *what))


if __name__ == "__main__":
    main()
