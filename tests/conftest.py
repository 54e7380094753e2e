"""Strict JAX for the whole suite: eight CPU devices, no rank promotion, no implicit dtype promotion; warnings are errors (pyproject)."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Eight devices on two cores: programs in flight at the same time can starve one another of threads inside a collective, and XLA then aborts.
jax.config.update("jax_cpu_enable_async_dispatch", False)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real pairs, tokenizers and the tiny model; tests that use it skip where it is absent (it is not ours to ship)."""
    from pathlib import Path

    folder = Path(os.environ.get("SAFEDPO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set SAFEDPO_TEST_DATA); the licences forbid shipping it")
    return folder
