"""Muon for the matrices (the momentum, made orthogonal by polynomials), AdamW for embedding, norms and routers.

Muon: Jordan et al. 2024; the factor 0.2 * sqrt(largest side) that lets both share a learning rate: Moonshot 2025.
"""

import jax
import jax.numpy as jnp

MATRICES = ("wq", "wk", "wv", "wo", "gate", "up", "down")

# Polar Express (Amsel et al. 2025): the odd polynomials of degree five that bring singular values to 1 fastest.
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)

ADAM = 0.4  # AdamW's learning rate, as a share of Muon's.


def is_matrix(path) -> bool:
    return path[-1].key in MATRICES


def orthogonal(m):
    """The nearest half-orthogonal matrix, roughly: most singular values end near 1. Works on stacks of matrices."""
    flip = m.shape[-2] > m.shape[-1]
    x = jnp.swapaxes(m, -1, -2) if flip else m
    x = x / (1.01 * jnp.sqrt((x * x).sum(axis=(-2, -1), keepdims=True)) + 1e-7)
    for p, q, r in POLYNOMIALS:
        a = jnp.einsum("...ij,...kj->...ik", x, x)
        x = p * x + (q * a + r * (a @ a)) @ x
    return jnp.swapaxes(x, -1, -2) if flip else x


def start(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    second = jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.zeros(()) if is_matrix(path) else jnp.zeros_like(p), params)
    return {"first": zeros, "second": second}


def update(params, grads, state, step, rate, decay):
    """One step. `rate` is Muon's and AdamW's learning rate; `step` counts from 1."""
    total = jnp.sqrt(sum((g * g).sum() for g in jax.tree.leaves(grads)))
    scale = jnp.minimum(1.0, 1.0 / (total + 1e-9))
    b1, b2, momentum = 0.9, 0.97, 0.95

    def one(path, p, g, first, second):
        if is_matrix(path):
            first = momentum * first + g
            change = orthogonal(g + momentum * first) * (0.2 * max(p.shape[-2:]) ** 0.5)
            return p * (1 - rate * decay) - rate * change, first, second
        g = g * scale
        first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g * g
        change = (first / (1 - b1 ** step)) / (jnp.sqrt(second / (1 - b2 ** step)) + 1e-8)
        return p - rate * ADAM * change, first, second

    out = jax.tree_util.tree_map_with_path(one, params, grads, state["first"], state["second"])
    pick = lambda i: jax.tree.map(lambda x: x[i], out, is_leaf=lambda x: isinstance(x, tuple))
    return pick(0), {"first": pick(1), "second": pick(2)}, total
