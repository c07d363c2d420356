"""The demonstration model in JAX: a Mixtral-style decoder, small enough to train on one CPU core.

Matrices are stored [in, out]; export.py transposes them to GGUF's [out, in]. Rotary pairs lie in halves here and are
interleaved on export, as architecture `llama` expects them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Shape:
    n_vocab: int = 4096
    n_layers: int = 4
    n_embd: int = 256
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    n_experts: int = 8
    n_used: int = 2
    n_ff: int = 256
    rope_base: float = 10000.0
    norm_eps: float = 1e-5


def init(shape: Shape, seed: int) -> dict:
    """Random parameters: normal, scaled by the width; residual outputs scaled down by depth."""
    rng = np.random.default_rng(seed)

    def normal(*dims, scale=1.0):
        return (rng.standard_normal(dims) * scale * dims[-2] ** -0.5).astype(np.float32)

    d, f, e = shape.n_embd, shape.n_ff, shape.n_experts
    q, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    out = (2 * shape.n_layers) ** -0.5
    params = {"embed": (rng.standard_normal((shape.n_vocab, d)) * 0.05).astype(np.float32),
              "norm": np.ones(d, np.float32)}
    for i in range(shape.n_layers):
        params[f"layer{i}"] = {
            "attn_norm": np.ones(d, np.float32), "ffn_norm": np.ones(d, np.float32),
            "wq": normal(d, q), "wk": normal(d, kv), "wv": normal(d, kv), "wo": normal(q, d, scale=out),
            "router": normal(d, e, scale=0.5),
            "gate": normal(e, d, f), "up": normal(e, d, f), "down": normal(e, f, d, scale=out),
        }
    return jax.tree.map(jnp.asarray, params)


def embedding_scale(shape: Shape) -> float:
    """What the embedding is multiplied by at the input; at the output it is used as it is."""
    return shape.n_embd ** 0.5 * 0.25


def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope(x, base):
    """x: [batch, time, heads, head_dim]."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None, :].astype(np.float32), np.sin(angles)[:, None, :].astype(np.float32)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(x, layer, mask, shape):
    b, t, _ = x.shape
    group = shape.n_heads // shape.n_kv_heads
    q = rope((x @ layer["wq"]).reshape(b, t, shape.n_heads, shape.head_dim), shape.rope_base)
    k = rope((x @ layer["wk"]).reshape(b, t, shape.n_kv_heads, shape.head_dim), shape.rope_base)
    v = (x @ layer["wv"]).reshape(b, t, shape.n_kv_heads, shape.head_dim)
    q = q.reshape(b, t, shape.n_kv_heads, group, shape.head_dim) * shape.head_dim ** -0.5
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k) + mask[:, None, None]
    mixed = jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(scores, axis=-1), v)
    return mixed.reshape(b, t, -1) @ layer["wo"]


@jax.custom_vjp
def dispatch(x, token_of, slot_of):
    """Rows of x for every slot of the experts; both directions are gathers, which XLA's CPU code does well."""
    return x[token_of]


def dispatch_forward(x, token_of, slot_of):
    return x[token_of], slot_of


def dispatch_backward(slot_of, grad):
    padded = jnp.concatenate([grad, jnp.zeros((1, grad.shape[1]), grad.dtype)])
    return padded[slot_of].sum(axis=1), None, None


dispatch.defvjp(dispatch_forward, dispatch_backward)


@jax.custom_vjp
def collect(rows, token_of, slot_of, choice_of):
    """For every token the rows of its chosen experts, [tokens, n_used, width]; a dropped choice is zero."""
    return jnp.concatenate([rows, jnp.zeros((1, rows.shape[1]), rows.dtype)])[slot_of]


def collect_forward(rows, token_of, slot_of, choice_of):
    return collect(rows, token_of, slot_of, choice_of), (token_of, choice_of)


def collect_backward(saved, grad):
    token_of, choice_of = saved
    flat = grad.reshape(-1, grad.shape[-1])
    padded = jnp.concatenate([flat, jnp.zeros((1, flat.shape[1]), flat.dtype)])
    return padded[choice_of], None, None, None


collect.defvjp(collect_forward, collect_backward)


def places(experts, n_experts, capacity):
    """Which slot each (token, choice) gets, and which token and choice fill each slot."""
    n, n_used = experts.shape
    flat = experts.reshape(-1)
    one_hot = (flat[:, None] == jnp.arange(n_experts)[None]).astype(jnp.int32)
    rank = jnp.take_along_axis(jnp.cumsum(one_hot, axis=0) - 1, flat[:, None], axis=1)[:, 0]
    slot = jnp.where(rank < capacity, flat * capacity + rank, n_experts * capacity)
    choice = jnp.full(n_experts * capacity + 1, n * n_used, jnp.int32).at[slot].set(jnp.arange(n * n_used))[:-1]
    return jnp.minimum(choice // n_used, n - 1), slot.reshape(n, n_used), choice


def experts_ffn(x, layer, real, shape, capacity_factor):
    """x: [tokens, n_embd]; real: which tokens are no padding. Returns the output, the balance loss, each expert's use."""
    n = x.shape[0]
    probs = jax.nn.softmax(x @ layer["router"], axis=-1)
    top, chosen = jax.lax.top_k(probs, shape.n_used)
    weights = top / top.sum(axis=-1, keepdims=True)
    hits = (chosen[:, :, None] == jnp.arange(shape.n_experts)).sum(axis=1) * real[:, None]
    use = hits.sum(axis=0) / (real.sum() * shape.n_used)
    mean_prob = (probs * real[:, None]).sum(axis=0) / real.sum()
    balance = shape.n_experts * (jax.lax.stop_gradient(use) * mean_prob).sum()

    capacity = int(-(-n * shape.n_used * capacity_factor // shape.n_experts))
    token_of, slot_of, choice_of = places(chosen, shape.n_experts, capacity)
    rows = dispatch(x, token_of, slot_of).reshape(shape.n_experts, capacity, -1)
    hidden = jax.nn.silu(jnp.einsum("ecd,edf->ecf", rows, layer["gate"])) * jnp.einsum("ecd,edf->ecf", rows, layer["up"])
    out = jnp.einsum("ecf,efd->ecd", hidden, layer["down"]).reshape(shape.n_experts * capacity, -1)
    mixed = (collect(out, token_of, slot_of, choice_of) * weights[:, :, None]).sum(axis=1)
    return mixed, balance, use


def hidden_states(params, tokens, segments, shape, capacity_factor):
    """The last hidden states [batch, time, n_embd]; a token sees its own document's past alone. Segment 0 is padding."""
    b, t = tokens.shape
    past = np.tril(np.ones((t, t), bool))
    mask = jnp.where(past & (segments[:, :, None] == segments[:, None, :]), 0.0, -1e9)
    real = (segments > 0).reshape(-1).astype(jnp.float32)
    x = params["embed"][tokens] * embedding_scale(shape)
    balance, uses = 0.0, []
    for i in range(shape.n_layers):
        layer = params[f"layer{i}"]
        x = x + attention(rms_norm(x, layer["attn_norm"], shape.norm_eps), layer, mask, shape)
        h = rms_norm(x, layer["ffn_norm"], shape.norm_eps).reshape(b * t, -1)
        y, layer_balance, use = experts_ffn(h, layer, real, shape, capacity_factor)
        x = x + y.reshape(b, t, -1)
        balance += layer_balance / shape.n_layers
        uses.append(use)
    return rms_norm(x, params["norm"], shape.norm_eps), balance, jnp.stack(uses)


def loss(params, batch, shape, capacity_factor=1.25, balance_weight=0.03):
    """batch: tokens, segments [batch, time] and weights [batch, time] of predicting each token from those before it."""
    tokens, segments, weights = batch
    x, balance, uses = hidden_states(params, tokens, segments, shape, capacity_factor)
    logits = x[:, :-1] @ params["embed"].T
    target = tokens[:, 1:]
    weight = weights[:, 1:] * (segments[:, 1:] == segments[:, :-1])
    right = jnp.take_along_axis(logits, target[:, :, None], axis=-1)[:, :, 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - right
    mean = (nll * weight).sum() / jnp.maximum(weight.sum(), 1.0)
    return mean + balance_weight * balance, (mean, balance, uses)
