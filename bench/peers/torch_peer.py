"""PyTorch as a peer: op by op (torch), or compiled (torch-compile)."""

import os
import sys
import sysconfig

from serve import serve


def start():
    import torch
    import torch_families

    # Compiled code is to be linked with this PyTorch, not with Debian's libtorch in the system's folder: the compiler
    # looks into that of Python first.
    sysconfig.get_config_vars()["LIBDIR"] = os.path.join(os.path.dirname(torch.__file__), "lib")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_num_interop_threads(1)

    def compiled(f):
        return torch.compile(f, dynamic=False) if compiled.compiles else f

    compiled.compiles = sys.argv[1] == "torch-compile"

    def make(task):
        return torch_families.make(task, compiled)

    def reset():
        if compiled.compiles:
            torch._dynamo.reset()

    def read(tensors):
        return [t.detach().numpy() for t in tensors]

    return torch.__version__, make, read, lambda result: None, reset


serve(start)
