"""Compiled programs outlive the process: a second start of a run, or of one like it, reads them instead of compiling again.

JAX keys an entry by the program, the compiler's version and options and the kind of device, so nothing is found that does not belong; the
folder carries the version of jaxlib as well, so that an old one can be told and deleted.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

OFF = "none"
NAME = "compilation_cache"


@contextlib.contextmanager
def cached(setting: str, beside: Any) -> Iterator[None]:
    """Inside, programs that take a second or more to compile are kept.

    Args:
      setting: `config.compilation_cache`: a directory, `none`, or empty for one in `beside`.
      beside: directory of run directories, local or gs://.

    A directory that JAX was given by other means (JAX_COMPILATION_CACHE_DIR, `jax.config`) stays in use, whatever the setting. One that
    cannot be written costs the cache, not the run: JAX warns and compiles.
    """
    if setting == OFF or jax.config.values["jax_compilation_cache_dir"] is not None:
        yield
        return
    directory = f"{setting or beside / NAME}/jaxlib-{jax.lib.__version__}"
    jax.config.update("jax_compilation_cache_dir", directory)
    compilation_cache.reset_cache()  # JAX opens a cache once; another run in this process may have had another
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
