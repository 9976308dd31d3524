"""Make the HLO modules in `hlo/` with JAX on the CPU. Run by hand: `python tests/neuron/make_hlo.py [directory]`.

The committed files were made with JAX 0.10.2. Programs go through StableHLO text without locations, so no
source path gets into the bytes and two runs give the same bytes. The table of names, sizes and digests is printed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax  # type: ignore[import-not-found, unused-ignore]
import jax.numpy as jnp  # type: ignore[import-not-found, unused-ignore]
from jax import lax  # type: ignore[import-not-found, unused-ignore]
from jaxlib import _jax  # type: ignore[import-not-found, import-untyped, unused-ignore]

Program = tuple[Callable[..., Any], tuple[Any, ...]]
BATCH, SEQUENCE, WIDTH, HEADS = 8, 128, 256, 8


def shape(*dims: int, dtype: Any = jnp.bfloat16) -> Any:
    return jax.ShapeDtypeStruct(dims, dtype)


def mlp(weights: list[Any], x: Any) -> Any:
    for up, down in weights:
        x = x + jax.nn.gelu(x @ up) @ down
    return x


def mlp_training_step() -> Program:
    weights = [(shape(WIDTH, 4 * WIDTH), shape(4 * WIDTH, WIDTH)) for _ in range(12)]

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        return jnp.mean(jnp.square((mlp(weights, x) - y).astype(jnp.float32)))

    def step(weights: list[Any], x: Any, y: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(weights, x, y)
        return value, jax.tree.map(lambda w, g: w - 0.01 * g, weights, gradients)

    batch = shape(BATCH, WIDTH)
    return step, (weights, batch, batch)


def attention(weights: list[Any], x: Any) -> Any:
    for query_key_value, output in weights:
        q, k, v = jnp.split(x @ query_key_value, 3, axis=-1)
        q, k, v = (t.reshape(*t.shape[:-1], HEADS, WIDTH // HEADS) for t in (q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (WIDTH // HEADS) ** 0.5
        causal = jnp.tril(jnp.ones((SEQUENCE, SEQUENCE), dtype=bool))
        weighted = jax.nn.softmax(jnp.where(causal, scores, -1e9), axis=-1)
        x = x + jnp.einsum("bhqk,bkhd->bqhd", weighted, v).reshape(x.shape) @ output
    return x


def attention_weights(layers: int) -> list[Any]:
    return [(shape(WIDTH, 3 * WIDTH), shape(WIDTH, WIDTH)) for _ in range(layers)]


def attention_forward() -> Program:
    return attention, (attention_weights(24), shape(BATCH, SEQUENCE, WIDTH))


def attention_backward() -> Program:
    def total(weights: list[Any], x: Any) -> Any:
        return jnp.sum(attention(weights, x).astype(jnp.float32))

    return jax.grad(total), (attention_weights(16), shape(BATCH, SEQUENCE, WIDTH))


def convolution_block() -> Program:
    channels = 64

    def block(kernels: list[Any], x: Any) -> Any:
        for kernel, scale in kernels:
            y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x + y * scale)
        return jnp.mean(x, axis=(1, 2))

    kernels = [(shape(3, 3, channels, channels), shape(channels)) for _ in range(8)]
    return block, (kernels, shape(BATCH, 32, 32, channels))


def adam_update() -> Program:
    def update(weights: Any, gradients: Any, first: Any, second: Any, step: Any) -> Any:
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        moved = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), weights, first, second)
        return moved, first, second

    tree = [shape(WIDTH, WIDTH, dtype=jnp.float32) for _ in range(16)]
    return update, (tree, tree, tree, tree, shape(dtype=jnp.float32))


def softmax_cross_entropy() -> Program:
    def loss(logits: Any, labels: Any) -> Any:
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)
        return -jnp.mean(picked)

    arguments = shape(BATCH * SEQUENCE, 32000, dtype=jnp.float32), shape(BATCH * SEQUENCE, dtype=jnp.int32)
    return jax.value_and_grad(loss), arguments


PROGRAMS = (
    mlp_training_step,
    attention_forward,
    attention_backward,
    convolution_block,
    adam_update,
    softmax_cross_entropy,
)


def hlo_module_bytes(program: Program) -> bytes:
    function, arguments = program
    text = jax.jit(function).lower(*arguments).as_text(debug_info=False)
    computation = _jax.mlir.mlir_module_to_xla_computation(text, use_tuple_args=False, return_tuple=True)
    return bytes(computation.as_serialized_hlo_module_proto())


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "hlo"
    jax.config.update("jax_platforms", "cpu")
    print(f"jax {jax.__version__}")
    for make in PROGRAMS:
        module = hlo_module_bytes(make())
        (target / f"{make.__name__}.hlo_module.pb").write_bytes(module)
        print(f"| `{make.__name__}` | {len(module)} | `{hashlib.sha256(module).hexdigest()}` |")


if __name__ == "__main__":
    main()
