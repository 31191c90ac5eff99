"""The base class that all layers of fastconv have besides torch's: it leads back to torch's class.

torch's quantisation in eager mode gives each layer a `qconfig` and then looks its exact class up.
It leaves a class that it does not know in floating point and says nothing.
"""


def torch_class(layer):
    """The class of torch.nn that a layer's class replaces. TypeError where there is none."""
    base = type(layer).__bases__[0]
    if not base.__module__.startswith("torch.nn."):
        raise TypeError(
            f"torch.nn has no class for a {type(layer).__name__}: use the network as it was before "
            "fastconv.fuse, without parametrisations and subclasses of fastconv's layers"
        )
    return base


class Layer:
    """A layer's class becomes torch's again when it is given a qconfig that is not None. The value
    is kept in the layer's __dict__, where torch looks for it once the class is torch's."""

    __slots__ = ()  # else __class__ could not be set: both classes need the same memory layout
    __jit_unused_properties__ = ("qconfig",)

    @property
    def qconfig(self):
        if "qconfig" in vars(self):
            return vars(self)["qconfig"]
        raise AttributeError("qconfig")

    @qconfig.setter
    def qconfig(self, value):
        if value is not None:
            self.__class__ = torch_class(self)
        vars(self)["qconfig"] = value

    @qconfig.deleter
    def qconfig(self):
        del vars(self)["qconfig"]
