"""Writes a Hugging Face directory that transformers reads: from a training run's checkpoint, or from an imported model.

    python -m safedpo_jax.tools.export_hf --source runs/safedpo --target out [--step 400] [--dtype bfloat16] [--form adapter]
    python -m safedpo_jax.tools.export_hf --source models/llama2-7b --target out

A run can be exported while it trains (its latest complete checkpoint) and after; of a run with an adapter, `--form model` is the merged policy and
`--form adapter` a PEFT directory. Tokenizer, chat template and generation config come along. The target appears complete or not at all.
"""

import argparse
import sys
from collections.abc import Sequence

from safedpo_jax import checks, command, storage
from safedpo_jax.tools.import_hf import DTYPES


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m safedpo_jax.tools.export_hf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="--workdir of a run, or a directory that import_hf wrote")
    parser.add_argument("--target", required=True, help="directory to write; a model directory that is there is replaced")
    parser.add_argument("--step", type=int, default=None, help="checkpoint of the run (default: the latest)")
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="of the stored weights (default: as they are)")
    parser.add_argument("--form", choices=("model", "adapter"), default="model", help="the whole policy, or the adapter alone")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status."""
    options = parse_arguments(arguments)
    source, target = storage.path(options.source), storage.path(options.target)
    from safedpo_jax.train import export, model_directory

    if (source / "checkpoints").is_dir():
        if options.form == "adapter" and options.dtype:
            raise checks.UsageError("--dtype is for --form model; an adapter is written as it was trained")
        step = export.from_checkpoint(source, target, options.form, options.step, options.dtype)
        print(f"{options.form} of step {step}: {target}")
        return 0
    if not model_directory.is_orbax(source):
        raise checks.UserError(
            f"{source} is neither a run directory (with checkpoints/) nor an imported model (with {model_directory.WEIGHTS}/)."
        )
    if options.step is not None or options.form != "model":
        raise checks.UsageError(f"--step and --form adapter are for a run directory; {source} is an imported model")
    model_directory.to_hugging_face(options.source, target, options.dtype)
    print(f"model: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(command.run(run))
