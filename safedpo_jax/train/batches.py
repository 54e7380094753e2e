"""How the config's batch keys become batches: rows per device, the training stream, sweeps over every example."""

from collections.abc import Iterator
from typing import Any

from safedpo_jax import data, sharding
from safedpo_jax.checks import UsageError
from safedpo_jax.config import Config
from safedpo_jax.structs import PairBatch

MOST_ROWS = 4
"""Rows of a microbatch on each device that shares it, unless the config says otherwise."""


def make_pipeline(config: Config, examples: data.TokenizedExamples, mesh: Any) -> data.Pipeline:
    index, count = sharding.process_rows(mesh)
    return data.Pipeline(
        examples,
        pairs_per_step=config.batch.pairs,
        micro_rows=batch_rows(config, mesh, examples)[0] // count,
        row_length=row_length(config),
        layout=config.batch.layout,
        seed=config.seed,
        epochs=config.epochs if config.steps is None else None,
        steps=config.steps,
        process_index=index,
        process_count=count,
    )


def every_example(config: Config, examples: data.TokenizedExamples, mesh: Any) -> Iterator[tuple[PairBatch, Any]]:
    """Batches that hold every example once, each with the index of every slot's example (-1 = empty)."""
    index, count = sharding.process_rows(mesh)
    return data.pack_all(
        examples,
        rows=batch_rows(config, mesh)[1] // count,
        row_length=row_length(config),
        layout=config.batch.layout,
        process_index=index,
        process_count=count,
    )


def row_length(config: Config) -> int:
    if config.batch.layout == "plain":
        return config.data.max_length
    return config.batch.row_length or 2 * config.data.max_length


def batch_rows(config: Config, mesh: Any, examples: data.TokenizedExamples | None = None) -> tuple[int, int]:
    """(training, evaluation) rows of a microbatch over all devices.

    Where the config leaves them open, evaluation takes `MOST_ROWS` rows per device, and training as many, but no more than a batch of average
    pairs fills, so that a small batch is not mostly padding.

    Raises:
      UsageError: they do not divide over the devices that share a batch.
    """
    shards = sharding.row_shards(mesh)
    for key, size in (("batch.rows", config.batch.rows), ("batch.eval_rows", config.batch.eval_rows)):
        if size is not None and size % shards:
            raise UsageError(
                f"{key}={size} does not divide over {shards} devices (mesh {dict(mesh.shape)}); make it a multiple of {shards}"
            )
    filled = MOST_ROWS
    if examples is not None and config.batch.layout == "shared":
        tokens = config.batch.pairs * float(data.pair_costs(examples).mean())
        filled = int(tokens / row_length(config) / shards)
    return config.batch.rows or shards * min(max(filled, 1), MOST_ROWS), config.batch.eval_rows or MOST_ROWS * shards
