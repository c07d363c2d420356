"""Documents into rows of a fixed length: sources and their shares in, batches of (tokens, segments, weights) out."""

import numpy as np


class Source:
    """A file of encode.py, walked in a shuffled order, again and again."""

    def __init__(self, path, rng):
        with np.load(path) as arrays:
            self.ids, self.weights, self.starts = arrays["ids"], arrays["weights"], arrays["starts"]
        self.rng, self.order = rng, []

    def next(self):
        if not len(self.order):
            self.order = self.rng.permutation(len(self.starts) - 1).tolist()
        i = self.order.pop()
        span = slice(self.starts[i], self.starts[i + 1])
        return self.ids[span], self.weights[span]


def pieces(ids, weights, length):
    """A document cut to pieces of at most `length`."""
    for at in range(0, len(ids), length):
        yield ids[at:at + length], weights[at:at + length]


class Packer:
    """Fills rows with whole documents where they fit; several rows stay open so that little is padding."""

    OPEN = 12

    def __init__(self, sources: dict, shares: dict, length: int, rng):
        self.names = list(shares)
        self.sources, self.length, self.rng = sources, length, rng
        total = sum(shares.values())
        self.shares = {name: share / total for name, share in shares.items()}
        self.seen = {name: 0 for name in shares}
        self.open, self.full = [], []

    def place(self, piece):
        room = [row for row in self.open if sum(len(p[0]) for p in row) + len(piece[0]) <= self.length]
        if room:
            max(room, key=lambda row: sum(len(p[0]) for p in row)).append(piece)
            return
        self.open.append([piece])
        if len(self.open) > self.OPEN:
            fullest = max(range(len(self.open)), key=lambda i: sum(len(p[0]) for p in self.open[i]))
            self.full.append(self.open.pop(fullest))

    def batch(self, rows: int):
        while len(self.full) < rows:
            # The source that lags most behind its share of the tokens comes next.
            total = sum(self.seen.values()) + 1
            name = min(self.names, key=lambda n: self.seen[n] / self.shares[n] / total)
            ids, weights = self.sources[name].next()
            self.seen[name] += len(ids)
            for piece in pieces(ids, weights, self.length):
                self.place(piece)
        chosen, self.full = self.full[:rows], self.full[rows:]
        tokens = np.zeros((rows, self.length), np.int32)
        segments = np.zeros((rows, self.length), np.int32)
        weights = np.zeros((rows, self.length), np.float32)
        for r, row in enumerate(chosen):
            at = 0
            for s, (ids, weight) in enumerate(row):
                span = slice(at, at + len(ids))
                tokens[r, span], segments[r, span], weights[r, span] = ids, s + 1, weight / 100.0
                at += len(ids)
        return tokens, segments, weights


def held_out(path, length, rows):
    """The first documents of a held-out file, one a row and cut at `length`: a batch. User's turns do not count."""
    with np.load(path) as arrays:
        starts = arrays["starts"]
        spans = [slice(a, min(b, a + length)) for a, b in zip(starts[:rows], starts[1:])]
        tokens = np.zeros((len(spans), length), np.int32)
        segments, weights = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
        for r, span in enumerate(spans):
            n = span.stop - span.start
            tokens[r, :n], segments[r, :n], weights[r, :n] = arrays["ids"][span], 1, arrays["weights"][span] > 30
    return tokens, segments, weights
