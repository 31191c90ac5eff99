"""Pooling on CUDA devices: problems, outputs, addresses."""


class CudaPool2d:
    """Pooling methods of the CUDA backends."""
