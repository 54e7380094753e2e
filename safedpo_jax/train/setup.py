"""Builds a run from its config: data, model, reference, optimiser, compiled functions. Everything slow or fallible happens here, once."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from safedpo_jax import config as configs
from safedpo_jax import data, losses, models, sharding
from safedpo_jax.checks import UsageError
from safedpo_jax.config import Config
from safedpo_jax.structs import PairBatch, Params
from safedpo_jax.train import reference as references
from safedpo_jax.train.evaluate import by_source, evaluate
from safedpo_jax.train.examples import Examples, load_examples
from safedpo_jax.train.forward import Forward
from safedpo_jax.train.optimizer import make_optimizer, schedule
from safedpo_jax.train.reference_cache import ReferenceCache
from safedpo_jax.train.runner import PMAP_AXIS, MeshRunner, PmapRunner
from safedpo_jax.train.state import TrainState
from safedpo_jax.train.step import make_loss_sums, make_train_step

Say = Callable[[str], None]
MOST_ROWS = 4
"""Rows of a microbatch on each device that shares it, unless the config says otherwise."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What the loop works with."""

    config: Config
    examples: Examples
    pipeline: data.Pipeline
    model: models.Model
    reference: Params | None
    reference_id: str
    """Short name of the reference's identity; empty for losses without a reference."""
    optimizer: optax.GradientTransformation
    runner: MeshRunner
    eval_sums: Callable[..., Any]

    def first_state(self) -> TrainState:
        """State before step 0; takes over the model's parameters."""
        return self.runner.to_run(self.runner.create(self.model.params, self.optimizer, self.config.seed))

    def abstract_state(self) -> TrainState:
        """Shapes and shardings to restore a checkpoint onto."""
        return self.runner.abstract(self.model.params, self.optimizer, self.config.seed)

    def evaluate(self, params: Params) -> dict[str, dict[str, float]] | None:
        """{source: {metric: mean}} over the held-out examples; None without any."""
        held_out = self.examples.held_out
        if held_out is None:
            return None
        batches = (self.runner.place(batch, 0) for batch, _ in every_example(self.config, held_out, self.runner.mesh))
        return by_source(evaluate(self.eval_sums, params, self.reference, batches), list(held_out.group_names))


def build(config: Config, cache_directory: Path, say: Say = print) -> Run:
    """Loads and compiles nothing it does not need; data first, since its mistakes are the cheapest to find.

    Raises:
      UserError: whatever is wrong with the data, the tokenizer, the model directory or the reference cache.
    """
    objective = losses.find_objective(config.loss.name)
    hyperparameters = configs.loss_hyperparameters(config.loss)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    batch_rows(config, mesh)  # raises before anything slow
    examples = load_examples(config, objective, say)
    pipeline = make_pipeline(config, examples.train, mesh)
    say(f"{pipeline.total_steps} steps of {config.batch.pairs} examples, {pipeline.steps_per_epoch:.1f} steps an epoch")

    model = load_model(config, config.model.path, mesh, say)
    data.check_vocabulary(examples.tokenizer, model.config.vocab_size)
    forward = Forward(
        model.hidden, model.head, config.model.logps_chunk, jnp.dtype(config.model.compute_dtype), row_shards=sharding.row_shards(mesh)
    )
    reference, reference_id = None, ""
    if objective.reference:
        examples, reference, reference_id = join_reference(config, examples, model, forward, mesh, cache_directory, say)
        pipeline = make_pipeline(config, examples.train, mesh)

    optimizer = make_optimizer(config.optimizer, pipeline.total_steps)
    axis = PMAP_AXIS if config.mesh.pmap else None
    rate = schedule(config.optimizer, pipeline.total_steps)
    per_device = forward._replace(row_shards=1) if config.mesh.pmap else forward
    step = make_train_step(per_device, objective, hyperparameters, optimizer, rate, axis_name=axis)
    runner = (PmapRunner if config.mesh.pmap else MeshRunner)(step, mesh, model.partition_rules)
    sums = make_loss_sums(forward, objective, hyperparameters)
    groups = len(examples.held_out.group_names) if examples.held_out is not None else 0
    eval_sums = jax.jit(lambda params, frozen, batch: sums(forward.cast(params), frozen, batch, groups)[1])
    return Run(config, examples, pipeline, model, reference, reference_id, optimizer, runner, eval_sums)


def join_reference(
    config: Config, examples: Examples, model: models.Model, forward: Forward, mesh: Any, cache_directory: Path, say: Say
) -> tuple[Examples, Params | None, str]:
    """The frozen tree (`reference=in_step`), or examples that carry its log-probs and no tree (`cached`); and the reference's short name."""
    identity = references.identity(config, data.tokenizer_fingerprint(examples.tokenizer))
    name = references.short(identity)
    start = load_model(config, config.model.reference_path, mesh, say).params if config.model.reference_path else model.params
    dtype = references.reference_dtype(config)
    if config.reference == "in_step":
        return examples, references.freeze(start, dtype), name
    frozen = start if dtype == config.model.param_dtype else references.freeze(start, dtype)
    directory = Path(config.reference_cache) if config.reference_cache else cache_directory / name
    say(f"reference log-probs: cache {directory}")
    runner = MeshRunner(lambda *_: None, mesh, model.partition_rules)
    with ReferenceCache.open(directory, identity, mode="w") as cache:
        logps = references.logps_function(forward, runner.place, frozen)
        parts = [part for part in (examples.train, examples.held_out) if part is not None]
        parts = references.attach_cached(cache, parts, lambda part: every_example(config, part, mesh), logps, say)
    return examples._replace(train=parts[0], held_out=parts[1] if len(parts) > 1 else None), None, name


def load_model(config: Config, directory: str, mesh: Any, say: Say) -> models.Model:
    """A Hugging Face directory, or the preset with random weights, placed on the mesh by the family's partition rules."""
    dtype, options = jnp.dtype(config.model.param_dtype), models.ModelOptions(remat=config.model.remat)
    if directory:
        say(f"model: {directory}")
        architecture = models.read_config(directory)
        place = sharding.sharding_for(mesh, models.Model(architecture, {}).partition_rules)
        return models.load_pretrained(directory, dtype, options=options, sharding_for=place)
    say(f"model: preset {config.model.preset}, random weights from seed {config.seed}")
    tokenizer = data.load_tokenizer(config.tokenizer.path)
    architecture = models.preset(config.model.preset, vocab_size=data.vocabulary_size(tokenizer))
    place = sharding.sharding_for(mesh, models.Model(architecture, {}).partition_rules)
    return models.create(architecture, jax.random.key(config.seed), dtype, options=options, sharding_for=place)


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
