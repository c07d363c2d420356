"""Makes what tests/quantize.rs expects: `python3 make.py PATH/libggml-base.so`, in this folder.

The bytes of the plain formats come from the PyPI package `gguf`; the script stops where ggml's own quantizer
(`ggml_quantize_chunk` of the library) gives others. For the formats that are searched it prints ggml's root mean square
errors over the same rows, which stand in the test's table.
"""

import ctypes
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize


def uniform(n, seed):
    """The generator of tests/quantize.rs: n numbers from -1 to 1 with 24 bits."""
    state, out = seed, np.empty(n, np.float32)
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = (state >> 40) / 2**23 - 1
    return out


def rows(kind, n, seed):
    u = uniform(4 * n, seed).reshape(n, 4)
    bell = (u[:, 0] + u[:, 1]) + (u[:, 2] + u[:, 3])
    if kind == "bell":
        return bell * np.float32(0.02)
    if kind == "tails":
        return bell * bell * bell * np.float32(0.01)
    if kind == "shifted":
        return (bell + np.float32(1.5)) * np.float32(0.02)
    scale = uniform(n // 32, seed + 1).repeat(32)
    return bell * scale


def plain():
    x = np.concatenate([rows(k, 512, 7 + i) for i, k in enumerate(["bell", "tails", "shifted", "scaled"])])
    hard = np.zeros((8, 32), np.float32)
    hard[1] = 1.0
    hard[2] = np.arange(32) - 16  # ties and exact codes
    hard[3] = (np.arange(32) - 15.5) / 2
    hard[4, ::2], hard[4, 1::2] = -3.0, 3.0  # two largest of either sign
    hard[5, 9] = 3000.0
    hard[6] = hard[2] * np.float32(1e-9)  # scales that are subnormal halves
    hard[7] = -hard[3]
    return np.concatenate([x, hard.reshape(-1)])


ggml = ctypes.CDLL(sys.argv[1])
ggml.ggml_quantize_chunk.restype = ctypes.c_size_t


def reference(ty, x):
    from gguf.constants import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[ty]
    out = np.zeros(x.size // block * size, np.uint8)
    x = np.ascontiguousarray(x)
    pointer = lambda a: ctypes.c_void_p(a.ctypes.data)
    ggml.ggml_quantize_chunk(
        ctypes.c_int(ty.value), pointer(x), pointer(out),
        ctypes.c_int64(0), ctypes.c_int64(1), ctypes.c_int64(x.size), None,
    )
    return out


if __name__ == "__main__":
    x = plain()
    for ty in [T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1]:
        data = quantize(x.reshape(1, -1), ty).view(np.uint8).reshape(-1)
        assert (data == reference(ty, x)).all(), ty
        open(f"{ty.name}.bin", "wb").write(data.tobytes())
    for ty in [T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS]:
        errors = []
        for i, kind in enumerate(["bell", "tails", "shifted", "scaled"]):
            x = rows(kind, 64 * 256, 100 + i)
            y = dequantize(reference(ty, x), ty).astype(np.float64)
            errors.append(float(np.sqrt(np.mean((x - y) ** 2))))
        print(f"(GgmlType::{ty.name}, [{', '.join(f'{e:.6e}' for e in errors)}]),")
