"""What fastconv.fuse says of each convolution and BatchNorm."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FusionReport:
    """One convolution or BatchNorm of a network: what went into its call, and why not more.

    Attributes:
        name: qualified name in the network, "" for the network itself.
        type: name of the class it had.
        fused: names of the modules and functions that went into the call, in order; "residual" for
            a sum.
        reason: why no more did, "" after an activation.
    """

    name: str
    type: str
    fused: tuple = ()
    reason: str = ""

    def __str__(self):
        chain = " + ".join((f"{self.name or '(model)'}: {self.type}", *self.fused))
        return f"{chain} ({self.reason})" if self.reason else chain


def join(prefix, name):
    return f"{prefix}.{name}" if prefix else name


def class_before(kind):
    """A module's class, or the one that it had before its BatchNorm was frozen."""
    return getattr(kind, "_frozen_from", kind)


def type_name(kind):
    return class_before(kind).__name__
