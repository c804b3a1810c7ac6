"""Alterations of other programs' files of weights, beside those of `altered_files`.

Each is a function of (random numbers, the file's bytes, another good file's bytes).
"""

import json
import struct
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import altered_files as general

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' helpers are
from helpers.saved_files import joined, split


def write_a_number(rng, content, other):
    """A length, an address, a count: one of eight bytes, at a multiple of eight."""
    at = 8 * rng.randrange(len(content) // 8)
    number = rng.choice([0, 1, 2**31, 2**62, 2**63, 2**64 - 1, rng.getrandbits(64), rng.randrange(len(content))])
    return content[:at] + struct.pack("<Q", number) + content[at + 8 :]


def change_some_bytes(rng, content, other):
    altered = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        altered[rng.randrange(len(altered))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(altered)


def rename_or_drop_an_entry(rng, content, other):
    header, data = split(content)
    header = json.loads(header)
    name = rng.choice(sorted(set(header) - {"__metadata__"}))
    entry = header.pop(name)
    if rng.random() < 0.8:
        header[rng.choice(["", name + ".", name[::-1], "x" * 1000, "\u0000", "9" + name, "1.weight", "../" + name])] = (
            entry
        )
    return joined(json.dumps(header).encode(), data)


def edit_the_settings(rng, content, other):
    """Put anything in the place of any value of the config."""
    parts = unzipped(content)
    config = json.loads(parts["config.json"])
    value = config
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            break
        key = rng.choice(list(keys))
        if not isinstance(value[key], dict | list) or rng.random() < 0.2:
            deep = json.loads("[" * 400 + "]" * 400)
            value[key] = rng.choice(
                [None, 0, -1, 1e308, "", "Lambda", "x" * 5000, [], {}, [[]], deep, True, [value[key]]]
            )
            break
        value = value[key]
    text = json.dumps(config)
    if rng.random() < 0.1:
        text = rng.choice(["[" * 100_000, text[: len(text) // 2], "NaN", '{"a":1,"a":2}', "", "\u00e9" * 9])
    return zipped({**parts, "config.json": text.encode()})


def edit_the_weights(rng, content, other):
    parts = unzipped(content)
    kind = rng.choice([*GENERAL, write_a_number, change_some_bytes])
    altered = kind(rng, parts["model.weights.h5"], unzipped(other)["model.weights.h5"])
    return zipped({**parts, "model.weights.h5": altered})


def blow_up_a_part(rng, content, other):
    """A part that is far larger than the file, or says that it is."""
    parts = unzipped(content)
    name = rng.choice(["config.json", "model.weights.h5"])
    bomb = zipped({**parts, name: bytes(rng.choice([100_000, 5_000_000]))}, zipfile.ZIP_DEFLATED)
    if rng.random() < 0.3:  # and says that it is smaller
        bomb = bomb.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 5000))
    return bomb


def unzipped(content):
    with zipfile.ZipFile(BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(parts, compression=zipfile.ZIP_STORED):
    written = BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return written.getvalue()


GENERAL = [
    general.flip_a_bit, general.overwrite_bytes, general.zero_bytes, general.truncate, general.append, general.insert_bytes,
    general.remove_bytes, general.exchange_blocks,
]  # fmt: skip
OF_SAFETENSORS = [
    *GENERAL, general.flip_a_bit_of_the_metadata, general.mix_two_files, general.change_the_length, general.edit_an_entry,
    general.duplicate_a_key, rename_or_drop_an_entry,
]  # fmt: skip
OF_H5 = [*GENERAL, write_a_number, write_a_number, change_some_bytes]
OF_KERAS = [*GENERAL, change_some_bytes, *[edit_the_settings] * 2, *[edit_the_weights] * 2, blow_up_a_part]
