"""Writes the masks of a pruned model as .smtx files, one for each weight that was asked for.

    bench/model_masks.py MODEL OUT PREFIX layers.4.mlp.down_proj layers.4.self_attn.o_proj

MODEL is a folder of safetensors with dense bf16 weights (`rarefy prune --storage dense`).
"""

import array
import json
import pathlib
import struct
import sys


def tensors(folder: pathlib.Path):
    """Yields (name, rows, cols, 16-bit words) of the matrices in all shards."""
    for shard in sorted(folder.glob("*.safetensors")):
        data = shard.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        for name, entry in header.items():
            if name == "__metadata__" or entry["dtype"] != "BF16" or len(entry["shape"]) != 2:
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, *entry["shape"], array.array("H", data[begin:end])


def smtx(rows: int, cols: int, words: array.array) -> str:
    """The pattern of a matrix: row offsets and column indices; both zeros are zeros."""
    offsets, columns = [0], []
    for row in range(rows):
        columns += [c for c in range(cols) if words[row * cols + c] & 0x7FFF]
        offsets.append(len(columns))
    lines = [f"{rows}, {cols}, {len(columns)}", " ".join(map(str, offsets)), " ".join(map(str, columns))]
    return "\n".join(lines) + "\n"


def main() -> None:
    model, out, prefix, *wanted = sys.argv[1:]
    missing = set(wanted)
    for name, rows, cols, words in tensors(pathlib.Path(model)):
        short = name.removeprefix("model.").removesuffix(".weight")
        if short not in missing:
            continue
        missing.remove(short)
        file = pathlib.Path(out) / f"{prefix}-{short.removeprefix('layers.')}.smtx"
        file.write_text(smtx(rows, cols, words))
    if missing:
        sys.exit(f"{model}: no dense bf16 matrix named {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
