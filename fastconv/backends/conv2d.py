"""What all backends do for a convolution: check the call and allocate the result, before a subclass
runs the kernel. Only tensors that dispatch found real come here."""

import functools

import torch

from ..problem import ConvOp, ConvProblem, suggests_channels_last
from .memory import check_operand, empty, readable

# The operators whose calls are those of a convolution: (x size, w size, Conv2dGeometry).
NO_EPILOGUE = (None, None, "none")  # bias, residual, activation


@functools.lru_cache(maxsize=4096)
def conv_problem(x_size, w_size, geometry):
    """The ConvProblem of concrete sizes; kept, since networks repeat theirs."""
    stride, padding, dilation, groups = geometry
    if {len(stride), len(padding), len(dilation)} != {2}:
        raise RuntimeError(
            f"expected two each of stride {stride}, padding {padding} and dilation {dilation}"
        )
    if len(x_size) != 4 or len(w_size) != 4 or x_size[1] != w_size[1] * groups:
        raise RuntimeError(
            f"x {list(x_size)} and w {list(w_size)} form no 2-D convolution of {groups} groups"
        )
    return ConvProblem(
        **dict(zip("NCHW", x_size)),
        **dict(zip("KRS", (w_size[0], w_size[2], w_size[3]))),
        **{
            f"{name}_{axis}": value
            for name, pair in (("stride", stride), ("pad", padding), ("dilation", dilation))
            for axis, value in zip("hw", pair)
        },
        groups=groups,
    )


def _epilogue_operands(b, residual, y_size, like):
    """The bias and the residual as kernels may read them."""
    if b is not None:
        check_operand("b", b, (y_size[1],), like)
        b = readable(b).contiguous()
    if residual is not None:
        check_operand("residual", residual, y_size, like)
        residual = readable(residual)
    return b, residual


class Conv2dBackend:
    """Convolutions and epilogues. A subclass has _convolve, _epilogue_backward, _activate, and
    _finish or _dgrad_with_epilogue."""

    def conv2d_fprop(self, x, w, b, residual, geometry, activation):
        problem = conv_problem(x.shape, w.shape, geometry)
        y_size = problem.out_size()
        check_operand("w", w, w.shape, x)
        epilogue = (*_epilogue_operands(b, residual, y_size, x), activation)
        y = empty(y_size, x, suggests_channels_last(x) or suggests_channels_last(w))
        if y.numel() > 0:
            self._convolve(ConvOp.fprop, problem, readable(x), readable(w), y, epilogue)
        return y

    def conv_transpose2d(self, x, w, b, residual, geometry, activation):
        y_size = geometry.out_size(x.shape, w.shape)
        problem = conv_problem(y_size, w.shape, geometry.convolution())
        check_operand("x", x, problem.out_size(), x)
        check_operand("w", w, w.shape, x)
        epilogue = (*_epilogue_operands(b, residual, y_size, x), activation)
        y = empty(y_size, x, suggests_channels_last(x) or suggests_channels_last(w))
        if y.numel() > 0:
            self._dgrad_with_epilogue(problem, y, readable(w), readable(x), epilogue)
        return y

    def prepare_fprop(self, x, w, b, residual, y, geometry, activation):
        """(a native call that computes another y like this one, its workspace if it needs one), or
        None: prepared.py."""
        return None

    def prepare_fprop_backward(self, dy, x, w, saved, dx, dw, db, geometry, activation):
        """(a native call, dz, its workspace if it needs one), or None, for a backward that computed
        dx, dw and db, those that are not None: from dy, or from dz where there is an activation,
        which `saved` was saved for. dz is None where there is none."""
        return None

    def prepare_conv_transpose(self, x, w, b, residual, y, geometry, activation):
        """As prepare_fprop."""
        return None

    def prepare_conv_transpose_backward(self, dy, x, w, saved, dx, dw, db, geometry, activation):
        """As prepare_fprop_backward."""
        return None

    def conv2d_dgrad(self, dy, w, x_size, channels_last, geometry):
        problem = conv_problem(tuple(x_size), w.shape, geometry)
        check_operand("dy", dy, problem.out_size(), dy)
        check_operand("w", w, w.shape, dy)
        dx = empty(x_size, dy, channels_last)
        if dx.numel() == 0 or dy.numel() == 0:
            return dx.zero_()
        self._convolve(ConvOp.dgrad, problem, dx, readable(w), readable(dy))
        return dx

    def _dgrad_with_epilogue(self, problem, dx, w, dy, epilogue):
        """For kernels of dgrad that have no epilogue: _finish(z, bias, residual, activation) adds
        and activates in place, as a kernel of its own."""
        self._convolve(ConvOp.dgrad, problem, dx, w, dy)
        bias, residual, activation = epilogue
        if bias is not None or residual is not None or activation != "none":
            self._finish(dx, bias, residual, activation)

    def conv2d_wgrad(self, dy, x, w_size, channels_last, geometry):
        problem = conv_problem(x.shape, tuple(w_size), geometry)
        check_operand("dy", dy, problem.out_size(), dy)
        check_operand("x", x, x.shape, dy)
        dw = empty(w_size, dy, channels_last)
        if dw.numel() == 0 or dy.numel() == 0:
            return dw.zero_()
        self._convolve(ConvOp.wgrad, problem, readable(x), dw, readable(dy))
        return dw

    def epilogue_backward(self, dy, saved, activation):
        check_operand("saved", saved, dy.shape, dy)
        dz = empty(dy.shape, dy, suggests_channels_last(saved))
        return dz, self._bias_grad(dy, readable(saved), activation, dz)

    def bias_grad(self, dy):
        return self._bias_grad(dy, None, "none", None)

    def _bias_grad(self, dy, saved, activation, dz):
        if dy.dim() != 4:
            raise RuntimeError(f"expected dy with 4 dimensions, got size {list(dy.shape)}")
        db = torch.empty(dy.shape[1], dtype=dy.dtype, device=dy.device)
        if dy.numel() == 0:
            return db.zero_()
        self._epilogue_backward(readable(dy), saved, activation, dz, db)
        return db

    def activation_forward(self, z, activation):
        y = empty(z.shape, z, suggests_channels_last(z))
        if y.numel() > 0:
            self._activate(readable(z), activation, y)
        return y
