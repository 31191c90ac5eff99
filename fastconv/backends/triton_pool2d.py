"""Pooling with Triton: what is supported, and the call."""

from .pool2d import Pool2dBackend


class TritonPool2d(Pool2dBackend):
    """Pooling methods of the Triton backends."""

    def pool2d_unsupported_reason(self, x_size, windows):
        """None, or why no kernel takes this call."""
        return "not yet"
