"""The inputs from which the fuzzer starts, and the words that it may insert: made from the hard cases."""

from collections.abc import Iterator
from pathlib import Path

from tests import hard_cases
from tests.fuzz.target import RECORD_TIMES, Kind, pack
from tests.readers import JSON_NUMBER, plain
from tickloom.core.model import Side

_MAX_BYTES = 1_500
_KINDS = {Side.PRICES: Kind.PRICES, Side.VOLUMES: Kind.VOLUMES}


def seeds() -> Iterator[bytes]:
    """Each hard case in some place of a message, alone and among others, at some record time; and the times alone."""
    texts = [text for text in hard_cases.TEXTS if len(text) < _MAX_BYTES]
    for side, kind in _KINDS.items():
        for number, text in enumerate(texts):
            bent = list(hard_cases.bent(text, side))
            yield pack(kind, [bent[number % len(bent)]])
            yield pack(kind, [plain(side), bent[(number + 7) % len(bent)], plain(side, 1)])
        for number, values in enumerate([*hard_cases.broken_apart(side), *hard_cases.compressed(side)]):
            if number % 10 == 0:
                yield pack(kind, values)
        for record_time in range(len(RECORD_TIMES)):
            yield pack(kind, [plain(side), plain(side).replace(hard_cases.STAMP, b"0")], record_time)
    for text in texts:
        if text.startswith(b'"'):
            yield pack(Kind.TEXTS, [text.strip(b'"'), b"2026-09-21T14:13:20.000001Z"])
        elif JSON_NUMBER.fullmatch(text.decode(errors="replace")):
            yield pack(Kind.NUMBERS, [text])


def write_seeds(directory: Path) -> Path:
    """A file each, and one with their names in order: a directory has no order, and runs would differ."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (directory / f"{number:05}").write_bytes(seed)
    names = directory.with_suffix(".list")
    names.write_text(",".join(str(path) for path in sorted(directory.iterdir())))
    return names


def write_dictionary(path: Path) -> None:
    """Write the words in libFuzzer's format."""
    keys = (b"symbol", b"price", b"volume", b"timestamp", b"open_price", b"high_price", b"low_price")
    words = [*(b'"%s":' % key for key in keys), *hard_cases.TEXTS, *(b"%s," % text for text in hard_cases.NUMBERS)]
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in words if 0 < len(word) <= 48)
    path.write_text("\n".join(lines) + "\n")
