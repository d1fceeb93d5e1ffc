"""PyTorch as a peer: op by op (torch), those calls as a CUDA graph (torch-graph), or compiled (torch-compile)."""

import os
import sys
import sysconfig

from serve import DEVICE, serve


def graphed(torch, work):
    """Makes one CUDA graph of what a call queues."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work.call()
    torch.cuda.current_stream().wait_stream(aside)
    graph, call = torch.cuda.CUDAGraph(), work.call
    with torch.cuda.graph(graph):
        result = call()

    def replay():
        graph.replay()
        return result

    work.call = replay


def start():
    import torch
    import torch_families

    # Compiled code is to be linked with this PyTorch, not with Debian's libtorch in the system's folder: the compiler
    # looks into that of Python first.
    sysconfig.get_config_vars()["LIBDIR"] = os.path.join(os.path.dirname(torch.__file__), "lib")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_num_interop_threads(1)
    wait = lambda result: None
    if DEVICE == "cuda":
        torch.cuda.init()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # f32 is f32 for everybody
        torch.backends.cudnn.benchmark = True
        wait = lambda result: torch.cuda.synchronize()

    def compiled(f):
        if not compiled.compiles:
            return f
        # A step of a loop keeps what its graph would overwrite.
        graphs = DEVICE == "cuda" and compiled.form != "step"
        return torch.compile(f, dynamic=False, mode="reduce-overhead" if graphs else None)

    compiled.compiles, compiled.form = sys.argv[1] == "torch-compile", ""

    def make(task):
        compiled.form = task.form
        work = torch_families.make(task, compiled)
        if sys.argv[1] == "torch-graph":
            work.settle = lambda: graphed(torch, work)
        return work

    def reset():
        if compiled.compiles:
            torch._dynamo.reset()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()

    def read(tensors):
        return [t.detach().cpu().float().numpy() for t in tensors]

    return torch.__version__, make, read, wait, reset


serve(start)
