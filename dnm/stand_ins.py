"""What costly operations return, without their arithmetic: zeros of the shape, type and layout of the result.

A pass that is run for its shapes alone needs no more. Where the arguments do not fit one another, no stand-in is
offered, so that the operation itself says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def convolution(
    data: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *settings: bool,
) -> Tensor | None:
    """Of `data` (`num x channels x space...`); `settings` are those of the backends."""
    num = data.dim() - 2
    if num < 1 or weight.dim() != data.dim() or not _alike(data, weight, bias):
        return None
    reads, makes = weight.shape[:2] if transposed else (weight.shape[1] * groups, weight.shape[0])
    channels = makes * groups if transposed else makes
    if data.shape[1] != reads or channels % groups or (bias is not None and bias.shape != (channels,)):
        return None
    each = (stride, padding, dilation, output_padding, data.shape[2:], weight.shape[2:])
    sizes = []
    for step, pad, gap, extra, size, kernel in zip(*(_spread(values, num) for values in each), strict=True):
        reach = gap * (kernel - 1)
        there, back = (size + 2 * pad - reach - 1) // step + 1, (size - 1) * step - 2 * pad + reach + extra + 1
        sizes.append(back if transposed else there)
    if min(sizes) < 1:
        return None
    result = data.new_zeros((data.shape[0], channels, *sizes))
    layout = LAYOUTS.get(num + 2, torch.contiguous_format)
    last = any(not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout) for tensor in (data, weight))
    return result.contiguous(memory_format=layout) if last else result


def product(first: Tensor, second: Tensor) -> Tensor | None:
    """Of `mm` and `bmm`."""
    if first.dim() != second.dim() or first.shape[-1] != second.shape[-2] or first.shape[:-2] != second.shape[:-2]:
        return None
    return first.new_zeros((*first.shape[:-1], second.shape[-1])) if _alike(first, second) else None


def sum_and_product(
    added: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor | None:
    """Of `addmm` and `baddbmm`."""
    result = product(first, second)
    if result is None or not _alike(first, added) or added.dim() > result.dim():
        return None
    pairs = zip(added.shape[::-1], result.shape[::-1], strict=False)
    return result if all(own in (1, size) for own, size in pairs) else None


STAND_INS: dict[str, Callable[..., Tensor | None]] = {
    "aten::convolution": convolution,
    "aten::_convolution": convolution,
    "aten::mm": product,
    "aten::bmm": product,
    "aten::addmm": sum_and_product,
    "aten::baddbmm": sum_and_product,
}


def _spread(values: Sequence[int], num: int) -> list[int]:
    return list(values) * num if len(values) == 1 else list(values)


def _alike(first: Tensor, *others: Tensor | None) -> bool:
    """Whether tensors are strided, of one type and on one device."""
    return first.layout is torch.strided and all(
        other is None or (other.dtype, other.device, other.layout) == (first.dtype, first.device, first.layout)
        for other in others
    )
