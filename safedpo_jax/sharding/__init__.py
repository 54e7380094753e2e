"""Meshes, partition rules and host-to-device transfer."""

from safedpo_jax.sharding.mesh import AXES as AXES
from safedpo_jax.sharding.mesh import ROW_AXES as ROW_AXES
from safedpo_jax.sharding.mesh import make_mesh as make_mesh
from safedpo_jax.sharding.mesh import process_rows as process_rows
from safedpo_jax.sharding.mesh import replicated as replicated
from safedpo_jax.sharding.mesh import row_shards as row_shards
from safedpo_jax.sharding.rules import Rules as Rules
from safedpo_jax.sharding.rules import fit as fit
from safedpo_jax.sharding.rules import match_rules as match_rules
from safedpo_jax.sharding.rules import path_name as path_name
from safedpo_jax.sharding.rules import sharding_for as sharding_for
from safedpo_jax.sharding.rules import state_shardings as state_shardings
from safedpo_jax.sharding.rules import tree_shardings as tree_shardings
from safedpo_jax.sharding.transfer import batch_sharding as batch_sharding
from safedpo_jax.sharding.transfer import fetch as fetch
from safedpo_jax.sharding.transfer import local_rows as local_rows
from safedpo_jax.sharding.transfer import replicate as replicate
from safedpo_jax.sharding.transfer import shard_batch as shard_batch

__all__ = [
    "AXES",
    "ROW_AXES",
    "Rules",
    "batch_sharding",
    "fetch",
    "fit",
    "local_rows",
    "make_mesh",
    "match_rules",
    "path_name",
    "process_rows",
    "replicate",
    "replicated",
    "row_shards",
    "shard_batch",
    "sharding_for",
    "state_shardings",
    "tree_shardings",
]
