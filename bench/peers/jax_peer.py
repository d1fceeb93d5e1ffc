"""JAX as a peer: everything under jit."""

import os

from serve import serve


def start():
    import jax
    import jax_families

    jax.config.update("jax_compilation_cache_dir", os.environ["TORCHINDUCTOR_CACHE_DIR"] + "-jax")

    def make(task):
        return jax_families.FAMILIES[task.family](task)

    return jax.__version__, make, list, jax.block_until_ready, jax.clear_caches


serve(start)
