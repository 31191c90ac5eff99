"""Pooling on the CPU."""


class CpuPool2d:
    """Pooling methods of the CPU backends."""
