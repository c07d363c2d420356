"""Whether an exported file computes what was trained: the same text's mean loss by JAX and by the engine's logits.
check_export.py DATA_FOLDER CHECKPOINT MODEL.gguf WAYINFER"""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

import model

data, checkpoint, gguf_path, engine = sys.argv[1:]
text = ("<|user|>Hello!<|end|><|assistant|>Hello! How can I help you today?<|end|><|user|>What is 2 + 2?<|end|>"
        "<|assistant|>2 plus 2 is 4.<|end|>")
ids = Tokenizer.from_file(str(Path(data) / "tokenizer.json")).encode(text).ids
shape = model.Shape()
params = {}
with np.load(checkpoint) as arrays:
    for name in arrays:
        if name.startswith("params."):
            *path, last = name.split(".")[1:]
            at = params
            for part in path:
                at = at.setdefault(part, {})
            at[last] = jnp.asarray(arrays[name])
tokens = jnp.asarray([ids])
x, _, _ = model.hidden_states(params, tokens, jnp.ones_like(tokens), shape, 8.0)
expected = np.asarray(x[0] @ params["embed"].T)
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    np.array(ids, np.int32).tofile(folder / "ids")
    subprocess.run([engine, "logits", gguf_path, "--ids-file", folder / "ids", "--out", folder / "out"], check=True)
    found = np.fromfile(folder / "out", np.float32)[-expected.size:].reshape(expected.shape)
log_softmax = lambda z: z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
p, q = log_softmax(expected), log_softmax(found)
print(f"mean KL divergence of {len(ids)} positions: {(np.exp(p) * (p - q)).sum(-1).mean():.2e}")
