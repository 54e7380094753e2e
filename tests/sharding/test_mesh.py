"""Meshes: sizes, the inferred one, and sentences with the numbers."""

import jax
import pytest
from jax.sharding import AxisType

from safedpo_jax import checks, sharding


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 1, "fsdp": -1, "tensor": 2}, (1, 4, 2)),
        ({"data": 1, "tensor": -1}, (1, 1, 8)),
    ],
)
def test_sizes_multiply_to_the_devices_and_axes_are_auto(sizes, expected):
    mesh = sharding.make_mesh(**sizes)
    assert tuple(mesh.shape.values()) == expected
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_a_subset_of_devices_can_be_given():
    assert sharding.make_mesh(devices=jax.devices()[:1]).size == 1
    assert sharding.row_shards(sharding.make_mesh(data=2, fsdp=2, tensor=1, devices=jax.devices()[2:6])) == 4


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"data": 3}, "data=3, fsdp=1, tensor=1 needs 3 devices, there are 8"),
        ({"fsdp": 3}, "fsdp=3, tensor=1 needs a multiple of 3 devices, there are 8"),
        ({"fsdp": -1}, "At most one mesh size may be -1"),
        ({"tensor": 0}, r"mesh.tensor must be a positive integer or -1 \(inferred\), got 0"),
        ({"data": -2}, "mesh.data must be a positive integer"),
    ],
)
def test_wrong_sizes_are_a_usage_error_with_the_numbers(sizes, sentence):
    with pytest.raises(checks.UsageError, match=sentence):
        sharding.make_mesh(**sizes)


def test_one_process_reads_all_rows():
    assert sharding.process_rows(sharding.make_mesh(data=2, fsdp=2, tensor=2)) == (0, 1)
