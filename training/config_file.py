"""Options of any command from a file: `--config FILE`, a YAML mapping of what the command line takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

OPTION = "--config"


def expanded(argv: Sequence[str]) -> list[str]:
    """A command's options with those of its `--config FILE` in front, so that the same ones given beside it win.

    Raises:
        ValueError: `--config` twice or without a file, or a file that is no YAML mapping of options.
        FileNotFoundError: no such file.
    """
    rest, files = [], []
    given = iter(argv)
    for word in given:
        if word.split("=")[0] == OPTION:
            files.append(word.partition("=")[2] or next(given, ""))
        else:
            rest.append(word)
    if not files:
        return rest
    if len(files) > 1 or not files[0]:
        raise ValueError(f"config: {OPTION} takes one YAML file")
    return [*read(Path(files[0])), *rest]


def read(path: Path) -> list[str]:
    """A file's options as words of the command line.

    `draw: {steps: 30}` is `--draw.steps 30`, `download: true` is `--download`, a list is several words.

    Raises:
        ValueError: no YAML, or no mapping of options.
        FileNotFoundError: no such file.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"config: no file {path}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"config: {path.name} is no YAML: {' '.join(str(e).split())}") from None
    return list(_words(found or {}, path.name))


def _words(options: Any, file: str, inside: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ValueError(f"config: {'.'.join(inside) or file} must hold options by name, as in 'steps: 30'")
    for key, value in options.items():
        *outer, name = (*inside, *key.replace("_", "-").split("."))
        flag = "--" + ".".join((*outer, name))
        if isinstance(value, dict):
            yield from _words(value, file, (*outer, name))
        elif isinstance(value, bool):
            yield flag if value else "--" + ".".join((*outer, f"no-{name}"))
        elif isinstance(value, list):
            if any(isinstance(each, (dict, list)) for each in value):
                raise ValueError(f"config: {flag[2:]} must be a list of plain values")
            yield from (flag, *map(str, value))
        else:
            yield f"{flag}={value}"
