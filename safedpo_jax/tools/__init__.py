"""Commands: python -m safedpo_jax.tools.NAME."""
