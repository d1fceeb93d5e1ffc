"""JAX as a peer: everything under jit."""

import os

from serve import DEVICE, serve


def start():
    import jax
    import jax_families

    jax.config.update("jax_compilation_cache_dir", os.environ["TORCHINDUCTOR_CACHE_DIR"] + "-jax")

    if DEVICE == "cuda":
        jax.config.update("jax_default_matmul_precision", "highest")  # f32 is f32 for everybody
        if jax.default_backend() != "gpu":
            raise RuntimeError("this JAX has no CUDA device")

    def make(task):
        return jax_families.FAMILIES[task.family](task)

    return jax.__version__, make, list, jax.block_until_ready, jax.clear_caches


serve(start)
