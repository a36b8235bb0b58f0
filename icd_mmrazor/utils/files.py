"""Files that are never seen half written."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(content: str | bytes, path: Path) -> None:
    """Write a file: the new one is there whole, or the old one still is.

    Args:
        content: The content; a text is written in UTF-8.
        path: The file; its folder exists.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(values: Any, path: Path) -> None:
    """Write a JSON file whole.

    Args:
        values: What ``json.dumps`` takes.
        path: The file; its folder exists.
    """
    write_whole(json.dumps(values), path)
