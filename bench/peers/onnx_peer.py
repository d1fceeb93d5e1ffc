"""ONNX Runtime as a peer: PyTorch's workloads, exported. It has no gradients."""

import io
import os

from serve import serve


def start():
    import onnxruntime
    import torch
    import torch_families
    from serve import Work

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # when a run ends

    class Module(torch.nn.Module):
        """A function of tensors; the parameters that it holds are constants."""

        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, *arguments):
            return self.function(*arguments)

    def session_of(function, arguments, names):
        file = io.BytesIO()
        with torch.no_grad():
            torch.onnx.export(Module(function), tuple(arguments), file, input_names=names, dynamo=False)
        return onnxruntime.InferenceSession(file.getvalue(), options, ["CPUExecutionProvider"])

    def make(task):
        function, arguments = torch_families.FORWARD[task.family](task)
        names = [f"in{i}" for i in range(len(arguments))]
        session = session_of(function, arguments, names)
        binding = session.io_binding()
        for name, t in zip(names, arguments):
            binding.bind_cpu_input(name, t.numpy())
        for output in session.get_outputs():
            binding.bind_output(output.name)

        def call():
            session.run_with_iobinding(binding)
            return binding

        return Work(call)

    def read(results):
        return results.copy_outputs_to_cpu() if results else []

    return onnxruntime.__version__, make, read, lambda result: None, lambda: None


serve(start)
