"""Packed layers compute what the layers did, and a row's numbers do not depend on how many rows there are."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evalgen.sampling import packed_linear
from evalgen.sampling.packed_linear import PackedLinear, can_pack, pack_linears


def layer(inputs: int, outputs: int, *, bias: bool, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(inputs * outputs)
    return nn.Linear(inputs, outputs, bias=bias, dtype=dtype).requires_grad_(False)


@settings(max_examples=60)
@given(
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 200),
    rows=st.integers(0, 40),
    bias=st.booleans(),
    more_dimensions=st.booleans(),
)
def test_a_packed_layer_computes_what_the_layer_does(
    inputs: int, outputs: int, rows: int, bias: bool, more_dimensions: bool
) -> None:
    linear = layer(inputs, outputs, bias=bias)
    x = torch.randn((rows, 1, inputs) if more_dimensions else (rows, inputs))
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=1e-5, rtol=1e-5)


def test_a_layer_of_bf16_is_packed_where_the_processor_can_and_is_as_precise_as_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_linear, "LEAST_WEIGHTS", 0)
    model = nn.Sequential(layer(300, 200, bias=True, dtype=torch.bfloat16))
    x = torch.randn(9, 300, dtype=torch.bfloat16)
    exact = layer(300, 200, bias=True, dtype=torch.bfloat16).double()(x.double())
    pack_linears(model)
    assert isinstance(model[0], PackedLinear) == can_pack(torch.bfloat16)
    product = model(x)
    assert product.dtype == torch.bfloat16
    assert (product.double() - exact).abs().max() <= exact.abs().max() * 2**-8


def test_no_layer_is_packed_that_the_processor_cannot_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "LEAST_WEIGHTS", 0)
    monkeypatch.setattr(packed_linear, "can_pack", lambda dtype: dtype != torch.bfloat16)
    model = nn.Sequential(layer(10, 10, bias=True, dtype=torch.bfloat16), layer(10, 10, bias=True))
    pack_linears(model)
    assert [type(child) for child in model] == [nn.Linear, PackedLinear]


@pytest.mark.parametrize("num_rows", [2, 3, 7, 16, 33, 120])
def test_a_row_gets_the_same_numbers_to_the_bit_among_many_rows_as_among_few(num_rows: int) -> None:
    packed = PackedLinear(layer(1536, 576, bias=False))
    rows = torch.randn(300, 1536)
    assert torch.equal(packed(rows[:num_rows]), packed(rows)[:num_rows])


def test_weights_can_still_be_read_and_are_not_kept_twice() -> None:
    linear = layer(37, 100, bias=True)
    packed = PackedLinear(linear)
    assert torch.equal(packed.weight, linear.weight)
    assert [name for name, _ in packed.named_parameters()] == ["bias"]


def test_only_large_plain_linear_layers_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Special(nn.Linear):
        pass

    monkeypatch.setattr(packed_linear, "LEAST_WEIGHTS", 100)
    model = nn.ModuleDict({"large": nn.Linear(10, 10), "small": nn.Linear(9, 9), "special": Special(10, 10)})
    double = nn.Sequential(nn.Linear(10, 10).double())
    pack_linears(model)
    pack_linears(double)
    assert [type(child) for child in model.values()] == [PackedLinear, nn.Linear, Special]
    assert type(double[0]) is nn.Linear


def test_a_layer_is_dropped_before_the_next_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's weights are all the memory that there may be: they must not stand there twice, not even for a while."""
    monkeypatch.setattr(packed_linear, "LEAST_WEIGHTS", 0)
    model = nn.Sequential(nn.Linear(5, 5), nn.ModuleDict({"deeper": nn.Linear(5, 5), "last": nn.Linear(5, 5)}))
    linears = [weakref.ref(each) for each in model.modules() if type(each) is nn.Linear]
    num_alive = []

    def counted(linear: nn.Linear) -> PackedLinear:
        num_alive.append(sum(each() is not None for each in linears))
        return PackedLinear(linear)

    monkeypatch.setattr(packed_linear, "PackedLinear", counted)
    pack_linears(model)
    assert num_alive == [3, 2, 1]
