"""Linear layers on a CPU, with their weights laid out once in the order in which oneDNN reads them.

A level of the tree is often a dozen rows, and then reading the weights is all the time there is. Of what torch has for
that, its usual product (MKL) takes four times as long as this one (`_linear_pointwise`, what torch's own compiler emits
for a CPU), and its sums depend on how many rows there are; of two rows or more this one's do not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_WEIGHTS = 2**17  # of a layer: for a smaller one the call itself takes longer than what packing saves


class PackedLinear(nn.Module):
    """Stands for a linear layer that is not trained any more; its weights are not kept a second time."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    @property
    def weight(self) -> Tensor:
        """(out, in), unpacked anew: for the odd architecture that looks at its layers' weights."""
        unpacked: Tensor = self._packed.to_dense()
        return unpacked

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, self._packed, self.bias, "none", [], "")
        return product


def pack_linears(model: nn.Module) -> None:
    """Packs all linear layers of `model` that are on the CPU. Nothing happens where torch comes without oneDNN."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    # By name, so that no list keeps a layer that has been packed: the weights would all be there twice.
    for name in [name for name, _ in model.named_children()]:
        child = getattr(model, name)
        if type(child) is nn.Linear and _gains(child.weight):  # subclasses may do something else with their weights
            setattr(model, name, PackedLinear(child))
        else:
            pack_linears(child)


def _gains(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.numel() >= LEAST_WEIGHTS and can_pack(weight.dtype)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor can: bf16 takes AVX-512 or newer instructions."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
