"""Fused networks that were saved whole before fastconv.fusion was a package name their tracer as
fastconv.fuse_tracer.Tracer; torch.load looks for it here."""

from .fusion.tracer import Tracer

__all__ = ["Tracer"]
