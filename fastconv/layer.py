"""What all layers of fastconv have in common beside torch's: a way back to torch's classes.

torch's quantisation in eager mode gives each layer a `qconfig` and then looks its exact class up:
it would leave a class that it does not know in floating point and say nothing.
"""


def torch_class(layer):
    """The class of torch.nn that does what a layer's does. TypeError where there is none."""
    base = type(layer).__bases__[0]
    if not base.__module__.startswith("torch.nn."):
        raise TypeError(
            f"torch.nn has no class for a {type(layer).__name__}: use the network as it was before "
            "fastconv.fuse, without parametrisations and subclasses of fastconv's layers"
        )
    return base


class Layer:
    """A layer becomes torch's again when it is given a qconfig that is not None."""

    __slots__ = ()  # a layer of torch's could not become a class with another layout
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
