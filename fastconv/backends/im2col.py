"""Convolution as im2col and torch's matrix product (cuBLAS), some rows of y at a time.

Whether float32 products may use TF32 is torch's setting for matrix products, not for convolutions.
Products of 16-bit types are summed and kept in float32 and rounded once, at the end.

The kernels before and after the product are a backend's: `kernels` is an object with
    im2col(problem, x, columns, channels_inner, images, rows)           x -> columns
    col2im(problem, dx, columns, channels_inner, images, rows, dx_rows) columns -> dx
    epilogue(z, bias, residual, activation)                             z, in place
where images, rows (of y) and dx_rows are pairs (first, count)."""

import torch

from ..problem import ConvOp


def _accumulator(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product(a, b, dtype):
    """The batched product a @ b, summed and returned in dtype."""
    if a.dtype == dtype:
        return torch.bmm(a, b)
    if a.is_cuda and hasattr(torch.ops.aten.bmm, "dtype"):  # torch >= 2.8
        return torch.bmm(a, b, out_dtype=dtype)
    return torch.bmm(a.to(dtype), b.to(dtype))


class _Pass:
    """One pass. The matrix of columns is (groups, terms, pixels) with terms in the order (c, r, s),
    or, where the channels of x (in dgrad of dx) are innermost in memory, (groups, pixels, terms)
    with terms in the order (r, s, c)."""

    def __init__(self, kernels, problem, x, w, y, column_bytes):
        self.kernels, self.problem, self.x, self.w, self.y = kernels, problem, x, w, y
        self.N, self.C, self.H, _, self.K, self.R, self.S = problem.sizes[:7]
        self.groups = problem.groups
        self.P, self.Q = y.shape[2:]
        self.channels_inner = x.stride(1) < x.stride(3)
        self.dtype, self.accumulator = x.dtype, _accumulator(x.dtype)
        self.terms = self.C // self.groups * self.R * self.S
        row_bytes = (self.groups * self.terms + self.K) * self.Q * self.accumulator.itemsize
        self.rows = max(1, column_bytes // row_bytes)  # of y, at once

    def chunks(self):
        """(first image, images, first row of y, rows of y): several whole images where one fits
        into self.rows, else some rows of one."""
        images = max(1, self.rows // self.P)
        rows = min(self.rows, self.P)
        for n in range(0, self.N, images):
            for p in range(0, self.P, rows):
                yield n, min(images, self.N - n), p, min(rows, self.P - p)

    def filters(self):
        """w as (groups, filters, terms), in the order of the columns."""
        w = self.w.permute(0, 2, 3, 1) if self.channels_inner else self.w
        return w.reshape(self.groups, self.K // self.groups, self.terms)

    def columns(self, n, images, p, rows):
        """The columns of some rows as (groups, terms, pixels)."""
        pixels = images * rows * self.Q
        size = (pixels, self.terms) if self.channels_inner else (self.terms, pixels)
        columns = self.x.new_empty((self.groups, *size))
        self.kernels.im2col(
            self.problem, self.x, columns, self.channels_inner, (n, images), (p, rows)
        )
        return columns.transpose(1, 2) if self.channels_inner else columns

    def grid(self, n, images, p, rows):
        """Some rows of dy as (groups, filters, pixels); a copy where a view cannot be."""
        part = self.y[n : n + images, :, p : p + rows]
        pixels, filters = images * rows * self.Q, self.K // self.groups
        if part.stride(1) == 1:
            inner = part.permute(0, 2, 3, 1).reshape(pixels, self.groups, filters)
            return inner.permute(1, 2, 0)
        return part.transpose(0, 1).reshape(self.groups, filters, pixels)

    def fprop(self, bias, residual, activation):
        w = self.filters()
        if bias is not None:
            bias = bias.to(self.accumulator)
        for n, images, p, rows in self.chunks():
            columns = self.columns(n, images, p, rows)
            if self.groups == 1 and self.channels_inner:
                z = _product(columns.transpose(1, 2), w.transpose(1, 2), self.accumulator)
                z = z.view(images, rows, self.Q, self.K).permute(0, 3, 1, 2)
            else:
                z = _product(w, columns, self.accumulator)
                z = z.view(self.K, images, rows, self.Q).transpose(0, 1)
            if bias is not None or residual is not None or activation != "none":
                added = None
                if residual is not None:
                    added = residual[n : n + images, :, p : p + rows].to(self.accumulator)
                self.kernels.epilogue(z, bias, added, activation)
            self.y[n : n + images, :, p : p + rows].copy_(z)

    def dgrad(self):
        w = self.filters().transpose(1, 2)
        for n, images, h, h_rows, p, rows in self.dgrad_chunks():
            dy = self.grid(n, images, p, rows)
            if self.channels_inner:
                columns = _product(dy.transpose(1, 2), w.transpose(1, 2), self.accumulator)
            else:
                columns = _product(w, dy, self.accumulator)
            self.kernels.col2im(
                self.problem,
                self.x,
                columns,
                self.channels_inner,
                (n, images),
                (p, rows),
                (h, h_rows),
            )

    def dgrad_chunks(self):
        """(first image, images, first row of dx, rows of dx, first row of dy, rows of dy): several
        whole images where one fits into self.rows, else some rows of dx with all rows of dy that
        they gather from."""
        stride, pad = self.problem.stride_h, self.problem.pad_h
        reach = (self.R - 1) * self.problem.dilation_h
        images = max(1, self.rows // self.P)
        h_rows = self.H if self.rows >= self.P else max(1, (self.rows - 1) * stride - reach + 1)
        for n in range(0, self.N, images):
            for h in range(0, self.H, h_rows):
                end = min(h + h_rows, self.H)
                p = min(max(0, -((reach - h - pad) // stride)), self.P)
                p_end = max(p, min((end - 1 + pad) // stride + 1, self.P))
                yield n, min(images, self.N - n), h, end - h, p, p_end - p

    def wgrad(self):
        total = None
        for chunk in self.chunks():
            columns = self.columns(*chunk)
            part = _product(self.grid(*chunk), columns.transpose(1, 2), self.accumulator)
            total = part if total is None else total.add_(part)
        if self.channels_inner:
            dw = total.view(self.K, self.R, self.S, self.C // self.groups).permute(0, 3, 1, 2)
        else:
            dw = total.view(self.w.shape)
        self.w.copy_(dw)


def convolve(kernels, op, problem, x, w, y, epilogue, column_bytes):
    """Runs a pass as Conv2dBackend._convolve does; column_bytes bounds the memory it takes."""
    call = _Pass(kernels, problem, x, w, y, column_bytes)
    if op == ConvOp.fprop:
        call.fprop(*epilogue)
    elif op == ConvOp.dgrad:
        call.dgrad()
    else:
        call.wgrad()
