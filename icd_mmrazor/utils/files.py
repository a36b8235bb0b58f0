"""Files that are never seen half written."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(text: str, path: Path) -> None:
    """Write a text file: the new one is there whole, or the old one still is.

    Args:
        text: The content.
        path: The file; its folder exists.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        temporary.write_text(text, encoding='utf-8')
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
