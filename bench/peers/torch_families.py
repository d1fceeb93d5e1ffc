"""The workloads in PyTorch, op by op or through torch.compile."""

import types

import torch
import torch_networks as networks
import torch_recurrent as recurrent
from serve import DEVICE, Work
from torch.nn import functional as F

CHAINS = {}


def tensor(task, name):
    """A weight of a dense layer is kept [out, in]."""
    t = recurrent.tensor(task, name)
    return t.t().contiguous() if task.parts[name]["linear"] else t


def as_told(task, name, t):
    return t.t() if task.parts[name]["linear"] else t


def tensors(task, but=()):
    return {name: tensor(task, name) for name in task.parts if name not in but}


def inference(run):
    def call():
        with torch.inference_mode():
            return run()

    return call


def op(task, _):
    x, y = tensors(task).values()
    count = task.options["ops"] // 2

    def adds():
        v = x
        for _ in range(task.options["ops"]):
            v = v + y
        return [v]

    def run():
        v = x
        for _ in range(count):
            v = (v + y) * x
        return [v.detach()]

    if task.kind != "tape":
        return Work(inference(adds if task.kind == "adds" else run))
    x.requires_grad_()
    return Work(run)


def chain(f):
    CHAINS[f.__name__] = f
    return f


@chain
def lstm_gates(i, f, g, o, c):
    c = torch.sigmoid(i) * c + torch.sigmoid(f) * torch.tanh(g)
    return [c, torch.sigmoid(o) * torch.tanh(c)]


@chain
def gelu12(a, b, c):
    x = a + b
    t = torch.tanh((x + x * x * x * 0.044715) * 0.7978846)
    return [(t + 1) * 0.5 * x * 1.5 + c]


@chain
def cheap5(a, b, c):
    return [torch.relu(a * b + c) * 1.5 - a]


@chain
def ten_ops(a, b, c):
    y = torch.relu(a * b + c) * 1.5 - a
    return [(torch.abs(y) + b) * c * 0.5 - b]


def chains(task):
    first, *rest = tensors(task).values()
    if task.options.get("halved"):
        first = first[:, : first.shape[1] // 2]
    return CHAINS[task.kind], [first, *rest]


def norm_of(task):
    if task.kind == "softmax":
        return lambda x: F.softmax(x, -1)
    if task.kind == "rms_norm":
        return lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-5)
    if task.kind == "affine_norm":
        return lambda x, scale, shift: F.layer_norm(x, x.shape[-1:], scale, shift)
    return lambda x: F.layer_norm(x, x.shape[-1:])


def loss_backward(task, compiled):
    run, x, y = compiled(F.cross_entropy), tensor(task, "x").requires_grad_(), tensor(task, "y")

    def call():
        loss = run(x, y)
        return [loss.detach(), *torch.autograd.grad(loss, x)]

    return Work(call)


def rows(task):
    return norm_of(task), [tensor(task, "x")]


def rows_backward(task, compiled):
    if task.kind == "cross_entropy":
        return loss_backward(task, compiled)
    *leaves, dy = tensors(task).values()
    run, leaves = compiled(norm_of(task)), [t.requires_grad_() for t in leaves]

    def call():
        y = run(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    return Work(call)


class Constant(torch.nn.Module):
    """A function of x and of parameters that do not change."""

    def __init__(self, run, p):
        super().__init__()
        self.run, self.names = run, {name: name.replace(".", "_") for name in p}
        for name, t in p.items():
            self.register_parameter(self.names[name], torch.nn.Parameter(t, requires_grad=False))

    def forward(self, x):
        return self.run({name: getattr(self, own) for name, own in self.names.items()}, x)


def layer_of(task):
    if task.kind == "gelu":
        return lambda p, x: F.gelu(F.linear(x, p["w"], p["b"]), approximate="tanh")
    return lambda p, x: F.linear(x, p["w"], p["b"]).relu_()


def linear(task):
    return Constant(layer_of(task), tensors(task, ["x"])), [tensor(task, "x")]


def linear_backward(task, compiled):
    run, x, dy = compiled(layer_of(task)), tensor(task, "x").requires_grad_(), tensor(task, "dy")
    p = {name: t.requires_grad_() for name, t in tensors(task, ["x", "dy"]).items()}

    def call():
        y = run(p, x)
        x_grad, *grads = torch.autograd.grad(y, [x, *p.values()], dy)
        return [y.detach(), x_grad, *(as_told(task, name, g) for name, g in zip(p, grads))]

    return Work(call)


def formatted(t, form):
    return t.to(memory_format=torch.channels_last) if form == "nhwc" and t.dim() == 4 else t


def setting(task):
    return types.SimpleNamespace(
        exact=task.exact, training=task.family == "train", heads=task.options.get("heads")
    )


def fold_norms(p):
    """Running statistics, scale and shift of a batch norm go into the weights before it."""
    folded = {name: t for name, t in p.items() if ".norm." not in name}
    for name in p:
        if name.endswith(".norm.scale"):
            base = name.removesuffix(".norm.scale")
            factor = p[name] / torch.sqrt(p[f"{base}.norm.variance"] + 1e-5)
            folded[f"{base}.conv.weight"] = p[f"{base}.conv.weight"] * factor[:, None, None, None]
            folded[f"{base}.conv.bias"] = p[f"{base}.norm.shift"] - p[f"{base}.norm.mean"] * factor
    return folded


def running_statistics(p):
    new = {}
    for name, t in p.items():
        if name.endswith(".norm.scale"):
            base = name.removesuffix("scale")
            new |= {f"{base}mean": torch.zeros_like(t), f"{base}variance": torch.ones_like(t)}
    return new


def forward(task):
    p, how = tensors(task, ["x"]), setting(task)
    p = fold_norms(p | running_statistics(p))
    p = {name: formatted(t, task.form) for name, t in p.items()}
    net = networks.network(task.kind)
    return Constant(lambda p, x: net(p, x, how), p), [formatted(tensor(task, "x"), task.form)]


def optimizer(task, parameters):
    lr = task.options["lr"]
    if task.options["optimizer"] == "adam":
        return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=DEVICE == "cuda")
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, fused=True)


def train(task, compiled):
    x, y, how = formatted(tensor(task, "x"), task.form), tensor(task, "y"), setting(task)
    p = {n: formatted(t, task.form).requires_grad_() for n, t in tensors(task, ["x", "y"]).items()}
    buffers, net = running_statistics(p), networks.network(task.kind)
    before = {name: t.detach().clone() for name, t in p.items()}
    update = optimizer(task, list(p.values()))
    loss_of = compiled(lambda p, buffers, x, y: F.cross_entropy(net(p | buffers, x, how).float(), y))

    def call():
        update.zero_grad(set_to_none=True)
        loss = loss_of(p, buffers, x, y)
        loss.backward()
        update.step()
        return [loss.detach()]

    return Work(call, lambda: [as_told(task, n, t.detach() - before[n]) for n, t in p.items()])


def transformer(task, compiled):
    """Forward and backward: the gradients of x and of all parameters."""
    x, dy, how = tensor(task, "x").requires_grad_(), tensor(task, "dy"), setting(task)
    p = {name: t.requires_grad_() for name, t in tensors(task, ["x", "dy"]).items()}
    net = networks.network("transformer")
    run = compiled(lambda p, x: net(p, x, how))

    def call():
        y = run(p, x)
        x_grad, *grads = torch.autograd.grad(y, [x, *p.values()], dy)
        return [y.detach(), x_grad, *(as_told(task, name, g) for name, g in zip(p, grads))]

    return Work(call)


# What is computed without gradients, as a function and its arguments.
FORWARD = {"chain": chains, "rows": rows, "linear": linear, "forward": forward, "recurrence": recurrent.forward}
LEARNING = {
    "op": op,
    "rows": rows_backward,
    "linear": linear_backward,
    "train": train,
    "transformer": transformer,
    "recurrence": recurrent.backward,
}


def listed(results):
    return [results] if isinstance(results, torch.Tensor) else results


def make(task, compiled):
    if task.family not in FORWARD or task.options.get("backward"):
        return LEARNING[task.family](task, compiled)
    compiles = compiled.compiles and task.form != "step"
    function, arguments = recurrent.forward(task, compiled) if task.form == "step" else FORWARD[task.family](task)
    run = compiled(function) if compiles else function
    if not compiles:
        return Work(inference(lambda: listed(run(*arguments))))
    freeze = isinstance(function, torch.nn.Module) and task.options.get("constant", True)

    def call():
        with torch._inductor.config.patch(freezing=freeze):
            return listed(run(*arguments))

    with torch.inference_mode():  # compiles
        call()
    return Work(inference(lambda: listed(run(*arguments))))
