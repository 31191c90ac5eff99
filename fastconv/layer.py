"""The base class that all layers of fastconv have besides torch's: it leads back to torch's class,
and shows in print(model) whose layer it is.

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


def is_ours(kind):
    """Whether a layer's class is fastconv's own, and not derived from one elsewhere."""
    return issubclass(kind, Layer) and kind.__module__.partition(".")[0] == __package__


def _printed_name(layer):
    """How print(model) calls a layer, in place of torch.nn.Module._get_name. A class that others
    derive from fastconv's has its own name alone, as torch prints it."""
    kind = type(layer)
    return f"{__package__}.{kind.__name__}" if is_ours(kind) else kind.__name__


class Layer:
    """A layer's class becomes torch's again when it is given a qconfig that is not None. The value
    is kept in the layer's __dict__, where torch looks for it once the class is torch's."""

    __slots__ = ()  # else __class__ could not be set: both classes need the same memory layout
    __jit_unused_properties__ = ("qconfig",)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls._get_name = _printed_name  # torch's class, a base before this one, has it too

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
