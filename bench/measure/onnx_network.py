"""A network as onnxruntime runs it, to hold fused networks against: exported from torch's network,
with as many threads as torch has."""

import importlib.util
import io
import warnings

import torch

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra `onnx`


def missing_packages():
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


class OnnxNetwork:
    """A callable like the network, for inputs of x's size."""

    def __init__(self, network, x):
        import onnxruntime

        exported = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the exporters say of themselves
            program = torch.onnx.export(
                network, (x,), input_names=["x"], dynamo=True, verbose=False, optimize=True
            )
            program.save(exported)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            exported.getvalue(), options, providers=["CPUExecutionProvider"]
        )
        # onnxruntime takes NCHW; to convert x is not its work.
        self.x, self.array = x, x.contiguous().numpy()

    def __call__(self, x):
        array = self.array if x is self.x else x.contiguous().numpy()
        return torch.from_numpy(self.session.run(None, {"x": array})[0])
