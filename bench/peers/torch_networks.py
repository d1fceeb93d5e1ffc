"""Networks as functions of x and named parameters, in PyTorch. Weights of dense layers are [out, in] here."""

from torch.nn import functional as F

BLOCKS = [3, 4, 6, 3]  # of ResNet-50


def dense(p, name, x):
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def conv(p, name, x, **options):
    return F.conv2d(x, p[f"{name}.weight"], p.get(f"{name}.bias"), **options)


def mlp(p, x, _):
    for i in (0, 2):
        x = F.relu(dense(p, i, x))
    return dense(p, 4, x)


def tiny(p, x, _):
    return dense(p, 2, F.relu(dense(p, 0, x)))


def fashion(p, x, how):
    x = x.unsqueeze(1)
    for name in ("conv1", "conv2"):
        x = F.max_pool2d(F.relu(conv(p, name, x)), 2)
    x = F.relu(dense(p, "hidden", x.flatten(1)))
    return dense(p, "out", x if how.exact else F.dropout(x, 0.5))


def lenet(p, x, _):
    x = F.avg_pool2d(conv(p, "conv1", x.unsqueeze(1), padding=2).tanh(), 2)
    x = F.avg_pool2d(conv(p, "conv2", x).tanh(), 2)
    x = dense(p, "dense1", x.flatten(1)).tanh()
    return dense(p, "out", dense(p, "dense2", x).tanh())


class ResNet:
    """Padding where it is checked: the odd element at the end; where it is timed: as much on both sides."""

    def __init__(self, p, how):
        self.p, self.how = p, how

    def pad(self, x, window, stride, value=0.0):
        """The padded x and what is left to the next op."""
        total = max(window - stride if x.shape[2] % stride == 0 else window - x.shape[2] % stride, 0)
        if total % 2 == 0:
            return x, total // 2
        if not self.how.exact:
            return x, (total + 1) // 2
        a, b = total // 2, total - total // 2
        return F.pad(x, (a, b, a, b), value=value), 0

    def conv_norm(self, x, name, stride=1):
        w = self.p[f"{name}.conv.weight"]
        x, padding = self.pad(x, w.shape[2], stride)
        if f"{name}.conv.bias" in self.p:  # the norm is part of the weights already
            return conv(self.p, f"{name}.conv", x, stride=stride, padding=padding)
        x = F.conv2d(x, w, None, stride, padding)
        norm = (self.p[f"{name}.norm.{what}"] for what in ("mean", "variance", "scale", "shift"))
        return F.batch_norm(x, *norm, training=self.how.training, momentum=0.1, eps=1e-5)

    def block(self, x, name, stride):
        y = F.relu(self.conv_norm(x, f"{name}.narrow"))
        y = F.relu(self.conv_norm(y, f"{name}.middle", stride))
        y = self.conv_norm(y, f"{name}.wide")
        return F.relu(y + (self.conv_norm(x, f"{name}.skip", stride) if f"{name}.skip.conv.weight" in self.p else x))

    def __call__(self, x):
        x, padding = self.pad(F.relu(self.conv_norm(x, "stem", 2)), 3, 2, -float("inf"))
        x = F.max_pool2d(x, 3, 2, padding)
        for stage, count in enumerate(BLOCKS, 1):
            for i in range(count):
                x = self.block(x, f"stage{stage}.{i}", 2 if stage > 1 and i == 0 else 1)
        return dense(self.p, "head", x.mean((2, 3)))


def resnet50(p, x, how):
    return ResNet(p, how)(x)


def transformer(p, x, how):
    """A block of an encoder, normalised before each part."""
    n, steps, width = x.shape
    y = F.layer_norm(x, (width,), p["norm1.scale"], p["norm1.shift"])
    q, k, v = (t.reshape(n, steps, how.heads, -1).transpose(1, 2) for t in dense(p, "inputs", y).chunk(3, 2))
    x = x + dense(p, "output", F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, steps, width))
    y = F.layer_norm(x, (width,), p["norm2.scale"], p["norm2.shift"])
    return x + dense(p, "narrow", F.gelu(dense(p, "wide", y)))


def network(kind):
    """Parameters are f32: all but those of batch norms are cast to what x is of."""

    def run(p, x, how):
        p = {name: t if ".norm." in name else t.to(x.dtype) for name, t in p.items()}
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
