"""Step 3: the training. train_demo.py DATA_FOLDER CHECKPOINT_FOLDER [CHECKPOINT]

Phases come from phases.json beside this file; each is read when it begins. Nothing depends on the wall clock, so that
the process can be stopped and continued.
"""

import json
import os
import sys
import time
from pathlib import Path

THREADS = int(os.environ.get("DEMO_THREADS", "1"))
os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if THREADS > 1 else 'false'}"

import jax
import jax.numpy as jnp
import numpy as np

import model
import optimizer
from packing import Packer, Source, held_out

SEED = 7
WARM_UP = 40
EVALUATE_EVERY = 60
SAVE_EVERY = 60
HELD_OUT_LENGTH = 256
HERE = Path(__file__).parent


def flat(tree, prefix=""):
    """A tree of dicts as one dict with dotted names."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for name, sub in tree.items() for k, v in flat(sub, f"{prefix}{name}.").items()}


def unflat(arrays) -> dict:
    tree = {}
    for name in arrays:
        *path, last = name.split(".")
        at = tree
        for part in path:
            at = at.setdefault(part, {})
        at[last] = jnp.asarray(arrays[name])
    return tree


def save(path, params, state, step, tokens_seen):
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, step=step, tokens_seen=tokens_seen, **flat({"params": params, "state": state}))
    partial.rename(path)


def phase_of(step):
    """The phase that holds this step (counted from 1), its first step, and the learning rate."""
    first = 1
    for number, phase in enumerate(json.loads((HERE / "phases.json").read_text())):
        if step < first + phase["steps"]:
            done = (step - first) / max(1, phase["steps"] - 1)
            begin, end = phase["rate"]
            return number, phase, (begin + (end - begin) * done) * min(1.0, step / WARM_UP)
        first += phase["steps"]
    return None, None, 0.0


def main():
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    shape = model.Shape()
    params = model.init(shape, SEED)
    state, step, tokens_seen = optimizer.start(params), 0, 0
    if len(sys.argv) > 3:
        with np.load(sys.argv[3]) as arrays:
            step, tokens_seen = int(arrays["step"]), int(arrays["tokens_seen"])
            tree = unflat({name: arrays[name] for name in arrays if "." in name})
        params, state = tree["params"], tree["state"]
    rng = np.random.default_rng(SEED + step)

    gradient = jax.jit(jax.value_and_grad(
        lambda p, batch: model.loss(p, batch, shape), has_aux=True))
    update = jax.jit(lambda p, g, s, i, rate: optimizer.update(p, g, s, i, rate, 0.1), donate_argnums=(0, 2))
    judge = jax.jit(lambda p, batch: model.loss(p, batch, shape, capacity_factor=shape.n_experts / shape.n_used)[1])
    log = open(out / "curve.csv", "a")
    tests = {}
    current, losses, began, tokens_before = None, [], time.time(), tokens_seen
    while True:
        step += 1
        number, phase, rate = phase_of(step)
        if phase is None:
            break
        if number != current:
            current = number
            sources = {name: Source(data / f"{name}.npz", rng) for name in phase["mix"]}
            packer = Packer(sources, phase["mix"], phase["length"], rng)
            tests = {name: held_out(data / f"{name}.heldout.npz", HELD_OUT_LENGTH, 40)
                     for name in ("dialogues", "storybooks")}
            print(f"phase {number}: {phase}", flush=True)
        batch = packer.batch(phase["rows"])
        (_, (mean, balance, uses)), grads = gradient(params, batch)
        params, state, norm = update(params, grads, state, float(step), rate)
        tokens_seen += int((batch[1] > 0).sum())
        losses.append(float(mean))
        if step % 10 == 0:
            pace = (tokens_seen - tokens_before) / (time.time() - began)
            print(f"{step} loss {np.mean(losses[-10:]):.3f} balance {float(balance):.3f} least used "
                  f"{float(uses.min()):.3f} norm {float(norm):.2f} rate {rate:.5f} {tokens_seen} tokens {pace:.0f}/s",
                  flush=True)
        if step % EVALUATE_EVERY == 0 or phase_of(step + 1)[1] is None:
            found = {name: float(judge(params, test)[0]) for name, test in tests.items()}
            row = [step, tokens_seen, f"{np.mean(losses[-EVALUATE_EVERY:]):.4f}"]
            log.write(",".join(map(str, row + [f"{name}={np.exp(x):.3f}" for name, x in found.items()])) + "\n")
            log.flush()
        if step % SAVE_EVERY == 0 or phase_of(step + 1)[1] is None:
            save(out / "latest.npz", params, state, step, tokens_seen)


main()
