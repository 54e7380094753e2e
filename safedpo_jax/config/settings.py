"""Every default of a training run, as frozen dataclasses.

A key that is None is "not set": whoever reads it says what happens then. Hyper-parameters of the loss default to None; the value used is the
one in the table of objectives.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the examples come from and how they become tokens."""

    train: str = ""  # file, glob, tfds:NAME:SPLIT or hf:NAME:SPLIT; several separated by commas
    eval: str = ""  # held-out examples in the same forms; empty = no evaluation
    format: str = "auto"  # auto, pku, pairs, chat, hh; for SFT also sft, messages
    ordering: str = "auto"  # safety, helpful, safer, safebetter, agree; auto = what the loss asks for
    on_contradiction: str = "drop"  # drop, raise or keep: the flags say one thing and safer_response_id the other
    unlabelled: str = "raise"  # raise or drop: the ordering needs a helpfulness label and the pair has none
    template: str = "auto"  # chat, safe_rlhf, plain; auto = chat if the tokenizer has a template, else safe_rlhf
    max_length: int = 512  # tokens of prompt + response
    truncation: str = "drop"  # response too long: drop, keep_without_eos, force_eos
    long_prompt: str = "drop"  # prompt leaves no room for a response: drop, truncate_left
    max_dropped_share: float = 0.5  # refuse to train when tokenization drops a larger share of the examples
    limit: int | None = None  # use the first N training examples only


@dataclasses.dataclass(frozen=True)
class Model:
    """The policy, and the reference when it is not the policy's own start."""

    path: str = ""  # Hugging Face directory
    preset: str = ""  # or a named architecture, randomly initialised
    resize_vocabulary: bool = False  # give a smaller model rows for the tokenizer's added tokens: each the mean of the old rows
    reference_path: str = ""  # empty = the reference is the policy as it starts
    param_dtype: str = "float32"  # master weights
    compute_dtype: str = "float32"  # forward and backward pass; bfloat16 on accelerators
    reference_dtype: str | None = None  # frozen reference weights; None = compute_dtype
    remat: str = "full"  # computed again by the backward pass: full, dots (all but products with weights), none; offload = full, the rest on the host
    logps_chunk: int = 128  # positions per head product; bounds the memory of logits


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv:2106.09685): the base stays frozen, the adapter alone is trained, and the reference is the base without it."""

    rank: int = 0  # 0 = no adapter, all weights are trained
    alpha: float = 16.0  # the adapter is scaled by alpha / rank
    rank_stabilised: bool = False  # by alpha / sqrt(rank) instead (arXiv:2312.03732)
    targets: str = r"(attention/(query|key|value|output)|mlp/(gate|up|down))/kernel$"  # regex on parameter paths
    path: str = ""  # PEFT directory to start from instead of a fresh adapter; its rank, alpha and targets are taken
    base: str = "full"  # full (compute_dtype), int8 or nf4: how the frozen weights of the layers are kept
    merge: bool = (
        True  # the export holds the merged model; the adapter itself is written too, as a PEFT directory, but for experts and routers
    )


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    path: str = ""  # empty = model.path


@dataclasses.dataclass(frozen=True)
class Loss:
    """The objective and its hyper-parameters. None = the objective's default (`losses.OBJECTIVES`)."""

    name: str = "safedpo"  # or several, separated by commas: their weighted sum is minimised
    weights: str = ""  # of several objectives, separated by commas; empty = 1 each
    schedule: str = ""  # NAME=FROM:TO[:SHARE], ...: numbers that move linearly over a share of the run, see config/loss.py
    beta: float | None = None  # KL temperature
    delta: float | None = None  # safety margin in logits, outside beta
    margin: float | None = None  # of slic, simpo, alphapo, suan
    label_smoothing: float | None = None  # share of wrong labels
    sft_weight: float | None = None  # of rpo, cpo: weight of the chosen response's NLL per token
    lam: float | None = None  # Lagrange multiplier, or weight of the cost
    base: str | None = None  # of safedaa, modpo: the pair loss inside
    divergence: str | None = None  # of f_dpo
    member: str | None = None  # of bso: the Bregman generator
    relabel: str | None = None  # of cdpo: hard or soft
    score_scale: float | None = None  # of cdpo
    helpful_weight: float | None = None  # of modpo
    alpha: float | None = None  # as in the objective's paper
    b1: float | None = None  # of bfpo
    tau: float | None = None  # temperature of discopop, kldpo, dr_dpo
    kappa: float | None = None  # of bso
    scale: float | None = None  # of bso
    headroom: float | None = None  # of bso: of the clamp above delta
    log_ratio_min: float | None = None  # of bso: the clamp below
    gamma: float | None = None  # of sc_dpo: focal exponent
    penalty: float | None = None  # of dpop
    shift: float | None = None  # of bco_pair
    desirable_weight: float | None = None  # of kto_pair
    undesirable_weight: float | None = None  # of kto_pair
    normalize: bool | None = None  # of kldpo, rappo
    max_weight: float | None = None  # of kldpo
    minimum_information: float | None = None  # of b_dpo
    radius: float | None = None  # of wdpo: size of the ball
    categories: int | None = None  # of cat_dpo: number of harm categories
    dual_rate: float | None = None  # of cat_dpo: step of the multipliers
    tolerance: float | None = None  # of cat_dpo: tolerated violation
    regularization: float | None = None  # of reward_model, cost_model, cost_classifier: weight of the squared scores
    form: str | None = None  # of adversarial_rm: ranking or diff


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW as in arXiv:2505.20065 on safe-rlhf's code: betas, decay and clipping are that code's defaults."""

    learning_rate: float = 1e-6
    schedule: str = "cosine"  # cosine, linear, constant
    warmup_ratio: float = 0.03  # share of the steps, int(ratio * steps)
    final_ratio: float = 0.0  # last learning rate / peak
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.05
    no_decay: str = r"(bias|_norm/scale)$"  # parameter paths without decay: biases and the norms inside the layers, as in safe-rlhf
    clip_norm: float = 1.0
    moment_dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one optimiser step sees: exactly `pairs` pairs, packed into rows, run in microbatches of `rows` rows."""

    pairs: int = 64
    rows: int | None = None  # rows per microbatch over all devices; None = up to 4 for each device that shares the batch
    row_length: int | None = (
        None  # tokens per row; None = 2 * data.max_length, which any pair fits; pairs that do not fit are dropped and counted
    )
    layout: str = "shared"  # shared (prompt computed once, rows packed) or plain (one response per row)
    eval_rows: int | None = None  # rows per evaluation or reference batch; None = 4 for each device that shares it


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices by axis. -1 = whatever is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    pmap: bool = False  # replicate the step with jax.pmap instead of jit over the mesh


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every: int = 200  # steps
    keep_last: int = 2
    keep_best: int = 1
    metric: str = ""  # evaluation metric of keep_best; empty = eval/loss
    mode: str = "min"  # min or max


@dataclasses.dataclass(frozen=True)
class Eval:
    every: int = 100  # steps; 0 = at the end only
    pairs: int | None = None  # use the first N held-out examples; None = all


@dataclasses.dataclass(frozen=True)
class Log:
    every: int = 10  # steps
    tensorboard: bool = True
    wandb_project: str = ""  # empty = off


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    epochs: float = 3.0  # passes over the training data
    steps: int | None = None  # optimiser steps, taken instead of epochs when set
    reference: str = "in_step"  # in_step: frozen tree inside the step; cached: log-probs computed once, then read
    reference_cache: str = ""  # directory of the durable cache; empty = WORKDIR/../reference_cache
    token_cache: str = ""  # directory of tokenised examples, read at the next start; empty = WORKDIR/../token_cache, none = off
    compilation_cache: str = ""  # directory of compiled programs, read at the next start; empty = WORKDIR/../compilation_cache, none = off
    export: bool = True  # write the final policy as a Hugging Face directory
    data: Data = Data()
    model: Model = Model()
    lora: Lora = Lora()
    tokenizer: Tokenizer = Tokenizer()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    batch: Batch = Batch()
    mesh: Mesh = Mesh()
    checkpoint: Checkpoint = Checkpoint()
    eval: Eval = Eval()
    log: Log = Log()
