"""Calls functions of rarefy._core with drawn arguments: fuzz_calls.py numpy|torch SEED CALLS LOG."""

import mmap
import random
import sys
import warnings

import numpy as np
import rarefy
from rarefy import _core

warnings.simplefilter("ignore")


def main(library, seed, calls, log):
    draw = Draw(library, seed)
    functions = [name for name in dir(_core) if callable(getattr(_core, name)) and not isinstance(getattr(_core, name), type)]
    functions = [name for name in functions if not name.startswith("_") and name not in ("set_threads", "plan", "plan_all")]
    # The likeliest to find something get more turns.
    functions += ["spmm", "linear", "bsr_linear", "bsr_sddmm", "csr_linear", "csr_sddmm", "pack"] * 4
    counts = {"returned": 0, "raised": 0}
    with open(log, "wb") as file:
        file.truncate(1 << 16)
    # A mapping survives a crash without a system call for each line.
    with open(log, "r+b") as file, mmap.mmap(file.fileno(), 0) as last:
        for _ in range(calls):
            name = draw.choice(functions)
            arguments = draw.arguments(name)
            text = f"{name}({', '.join(draw.describe(a) for a in arguments)})".encode()[: 1 << 16]
            last[: len(text)], last[len(text) : len(text) + 1] = text, b"\n"
            try:
                getattr(_core, name)(*arguments)
                counts["returned"] += 1
            except Exception:
                counts["raised"] += 1
    print(counts["returned"], counts["raised"])


class Draw:
    """Draws arguments: most of them nearly right."""

    def __init__(self, library, seed):
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.library = library
        if library == "torch":
            import torch

            self.torch = torch
            torch.manual_seed(seed)
        self.sides = [0, 1, 2, 3, 4, 8, 16, 24, 33]
        self.address = 1 << 46
        self.odd = self.odd_values()

    def choice(self, options):
        return self.random.choice(options)

    def array(self, shape, dtype=np.float32):
        """An array of this shape that is usually contiguous and of this dtype."""
        roll = self.random.random()
        if roll < 0.02:
            return self.anything()
        if roll < 0.05:
            shape = [max(0, n + self.choice([-1, 1, 5])) for n in shape]
        if roll < 0.08:
            dtype = self.choice([np.float64, np.float16, np.int32, np.int64, np.uint8, np.bool_, np.complex64, np.int8])
        wide = self.choice([1, 1, 1, 2])
        values = self.numpy.integers(-3, 4, [*shape[:-1], shape[-1] * wide] if shape else [])
        made = values.astype(dtype)
        if self.library == "torch":
            made = self.torch.from_numpy(np.asarray(made))
            if made.is_floating_point() and self.random.random() < 0.2:
                made = made.to(self.choice([self.torch.bfloat16, self.torch.float16]))
            if made.is_floating_point() and self.random.random() < 0.05:
                made.requires_grad_()
        if wide == 2 and shape:
            made = made[..., ::2] if self.random.random() < 0.3 else made[..., : shape[-1]]
        if len(shape) == 2 and self.random.random() < 0.03:
            made = made.T
        if self.random.random() < 0.02 and self.library == "numpy":
            made = np.broadcast_to(made, (2, *made.shape))
        if self.random.random() < 0.02 and self.library == "torch":
            made = made.expand(2, *made.shape)
        return made

    def anything(self):
        return self.choice(self.odd)

    def odd_values(self):
        options = [None, 0, -1, 2**70, 1.5, "csr", b"x", [], {}, object(), float("nan"), np.float32(1), slice(1), lambda: 0, type]
        options += [np.array(["a"]), np.array([None]), np.zeros((1,) * 20), memoryview(b"abc"), np.zeros(3, ">f4")]
        if self.library == "torch":
            torch = self.torch
            options += [torch.zeros(2, device="meta"), torch.eye(3).to_sparse(), torch.eye(4).to_sparse_csr(), torch.tensor(1.0)]
            options += [torch.nn.Parameter(torch.zeros(2, 2)), torch.zeros(2, 2, dtype=torch.float8_e4m3fn)]
            options += [torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.quint8), torch.empty(0)]
        return options

    def indices(self, count, limit):
        """Usually ascending and within the limit."""
        if self.random.random() < 0.7:
            values = np.sort(self.numpy.integers(0, max(limit, 1), count))
        else:
            values = self.numpy.integers(-2, max(limit, 1) + 2, count)
        if self.random.random() < 0.05 and count:
            values[self.numpy.integers(count)] = self.choice([2**31 - 1, -(2**31), limit])
        return self.number_array(values, np.int32)

    def number_array(self, values, dtype):
        if self.random.random() < 0.03:
            dtype = np.int64
        made = np.asarray(values).astype(dtype)
        return self.torch.from_numpy(made) if self.library == "torch" else made

    def matrix(self):
        shape = (self.choice(self.sides), self.choice(self.sides))
        try:
            return _core.pack(
                self.array(shape), self.choice(["csr", "csr16", "bitmap", "dense", "sell8", "delta4", "bsr4x4", "csb", "2:4"])
            )
        except Exception:
            return _core.pack(np.eye(8, dtype=np.float32), "csr")

    def handle(self, matrix):
        handle = matrix._handle()
        if self.random.random() < 0.1:  # As on a GPU, at an address that nobody follows.
            self.address += 16
            handle = matrix._device_handle(self.address, self.choice([0, 1]), object())
        elif self.library == "torch":
            handle = self.torch.from_dlpack(handle)
            if self.random.random() < 0.05:
                handle = handle.clone() + self.choice([0, 1, -1])
        self.kept = (matrix, handle)
        return handle if self.random.random() < 0.97 else self.array([2], np.int64)

    def pattern(self):
        """Seven arguments of a pattern, its block shape and how many blocks it has."""
        down, across, r, c = (self.choice([1, 2, 3]), self.choice([1, 2, 3]), self.choice([1, 4, 8]), self.choice([1, 4, 8]))
        if self.random.random() < 0.75:
            mask = self.numpy.random((down, across)) < 0.6
            rows, cols = np.nonzero(mask)
            turned = np.nonzero(mask.T)
            order = np.lexsort((rows, cols))
            arrays = [np.r_[0, mask.sum(1).cumsum()], cols, np.r_[0, mask.sum(0).cumsum()], turned[1], order]
            arrays = [self.number_array(a, np.int32) for a in arrays]
            blocks = len(rows)
            if self.random.random() < 0.4:
                arrays[self.choice(range(5))] = self.indices(self.choice([0, 1, blocks, blocks + 1]), blocks)
        else:
            blocks = self.choice([0, 1, 3, 5])
            arrays = [self.indices(n, blocks) for n in (down + 1, blocks, across + 1, blocks, blocks)]
        features = (down * r, across * c)
        if self.random.random() < 0.05:
            features = (self.choice([-8, 0, 7, 2**31, 2**62]), features[1])
        return [*arrays, *features], (r, c), blocks

    def tokens(self, features):
        shape = [self.choice(self.sides[:6]), min(max(features, 0), 64)]
        return [self.choice([1, 2]), *shape] if self.random.random() < 0.2 else shape

    def result(self, x, features):
        shape = [*getattr(x, "shape", (1,))[:-1], min(max(features, 0), 64)]
        return self.array(shape)

    def optional(self, make):
        return None if self.random.random() < 0.6 else make()

    def text(self, *options):
        return self.choice(options) if self.random.random() < 0.97 else self.anything()

    def arguments(self, name):
        make = getattr(self, "for_" + name, None)
        if make is None or self.random.random() < 0.02:
            return [self.anything() for _ in range(self.choice([0, 1, 2, 3, 12]))]
        made = make()
        if self.random.random() < 0.03 and made:
            made[self.choice(range(len(made)))] = self.anything()
        return made

    def for_pack(self):
        shape = [self.choice(self.sides), self.choice(self.sides)]
        formats = (
            "csr",
            "csr16",
            "bitmap",
            "window",
            "csb",
            "delta4",
            "delta8",
            "sell8",
            "sell16",
            "2:4",
            "bsr4x4",
            "dense16x16",
            "bsr0x0",
            "9999999999:4",
        )
        return [
            self.choice([self.array(shape), self.matrix()]),
            self.text(*formats),
            self.optional(lambda: self.text("f32", "bf16", "f16")),
        ]

    def for_spmm(self):
        a = self.matrix()
        m, k = a.shape
        layout = self.text("token", "feature")
        n = self.choice(self.sides[:6])
        feature = isinstance(layout, str) and layout == "feature"
        b = self.array([k, n] if feature else [n, k])
        out = self.array([m, n] if feature else [n, m])
        if self.random.random() < 0.02:
            out = b
        residual = self.optional(lambda: self.choice([out, self.array([n, m])]))
        kernel = None if self.random.random() < 0.8 else self.choice(rarefy.spmm_kernels())
        bias = self.optional(lambda: self.array([m]))
        return [a, b, out, bias, self.text("none", "relu", "gelu", "silu"), residual, layout, self.text("exact", "bf16"), kernel]

    def for_sddmm(self):
        a = self.matrix()
        t = self.choice(self.sides[:6])
        return [a, self.array([t, a.shape[0]]), self.array([t, a.shape[1]])]

    def for_linear(self):
        a = self.matrix()
        turned = self.random.random() < 0.4
        into, out_of = a.shape if turned else a.shape[::-1]
        x = self.array(self.tokens(into))
        bias = self.optional(lambda: self.array([out_of]))
        return [x, self.handle(a), bias, self.text("none", "relu", "gelu", "silu"), turned, self.result(x, out_of)]

    def for_device_linear(self):
        a = self.matrix()
        x = self.array(self.tokens(a.shape[1]))
        return [x, self.handle(a), self.result(x, a.shape[0])]

    def for_device_expand(self):
        a = self.matrix()
        return [self.handle(a), self.array(list(a.shape))]

    def for_device_dense(self):
        return [self.handle(self.matrix()), self.choice([0, 1, -1, 2**31 - 1])]

    def for_place_on_device(self):
        return [self.matrix(), self.choice([0, 1, -1, 2**31 - 1]), self.choice([1, 0, -1, 2**62]), False]

    def for_bsr_linear(self):
        pattern, shape, blocks = self.pattern()
        turned = self.random.random() < 0.5
        into, out_of = pattern[5:] if turned else pattern[:4:-1]
        x = self.array(self.tokens(into))
        bias = self.optional(lambda: self.array([min(max(out_of, 0), 64)]))
        return [x, self.array([blocks, *shape]), *pattern, bias, turned, self.result(x, out_of)]

    def for_bsr_sddmm(self):
        pattern, shape, blocks = self.pattern()
        t = self.choice(self.sides[:6])
        p, q = (self.array([t, min(max(n, 0), 64)]) for n in pattern[5:])
        return [p, q, *pattern, self.array([blocks, *shape])]

    def for_bsr_columns(self):
        pattern, shape, blocks = self.pattern()
        outs = [self.number_array(np.zeros(n), np.int32) for n in (len(pattern[2]), blocks, blocks)]
        return [*pattern[:2], *pattern[5:], *shape, *outs]

    def for_csr_linear(self):
        a = self.matrix()
        turned = self.random.random() < 0.5
        into, out_of = a.shape if turned else a.shape[::-1]
        x = self.array(self.tokens(into))
        return [x, self.array([a.nnz]), self.handle(a), turned, self.result(x, out_of)]

    def for_csr_sddmm(self):
        a = self.matrix()
        t = self.choice(self.sides[:6])
        return [self.array([t, a.shape[0]]), self.array([t, a.shape[1]]), self.handle(a), self.array([a.nnz])]

    def for_csr_shape(self):
        return [self.handle(self.matrix())]

    def for_csr_places(self):
        a = self.matrix()
        return [self.handle(a), self.number_array(np.zeros(a.nnz), np.int64)]

    def for_csr_values(self):
        a = self.matrix()
        return [a, self.array([a.nnz])]

    def describe(self, argument):
        """Enough to make the call again."""
        if isinstance(argument, np.ndarray):
            return f"{argument.dtype}{list(argument.shape)}/{argument.strides}{argument.tolist() if argument.size < 20 else ''}"
        if self.library == "torch" and isinstance(argument, self.torch.Tensor) and argument.layout == self.torch.strided:
            values = argument.tolist() if argument.device.type == "cpu" and argument.numel() < 20 and not argument.is_quantized else ""
            return f"{argument.dtype}{list(argument.shape)}/{argument.stride()}{values}"
        return repr(argument)[:200]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
