"""The private message of this installation: five random bytes, made once and kept in the user's configuration folder.

CSM's published code marks with a public key, which anybody could imitate; ours identifies speech as made here.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from backends.interface import ModelUnavailable

KEY_BYTES = 5
KEY_FILE = "watermark.key"
_WRITTEN_SECONDS = 2.0  # longest time between the creation of the file and its text


def parse_key(text: str) -> tuple[int, ...]:
    """Ten hex digits -> five bytes. Raises ModelUnavailable."""
    try:
        key = tuple(bytes.fromhex(text.strip()))
    except ValueError as error:
        raise ModelUnavailable("a watermark key has ten hex digits") from error
    if len(key) != KEY_BYTES:
        raise ModelUnavailable(f"a watermark key has ten hex digits, not {len(text.strip())}")
    return key


def installation_key(user_dir: Path) -> tuple[int, ...]:
    """The key in user_dir/watermark.key, made if it is not there. Raises ModelUnavailable if it cannot be kept."""
    file = user_dir / KEY_FILE
    try:
        user_dir.mkdir(parents=True, exist_ok=True)
        # Two workers may start at once: whoever creates the file wins, the other reads it.
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as new:
            new.write(secrets.token_hex(KEY_BYTES) + "\n")
    except FileExistsError:
        _await_text(file)
    except OSError as error:
        raise ModelUnavailable(f"the watermark key cannot be kept in {user_dir}: {error}") from error
    return read_key(file)


def read_key(file: Path) -> tuple[int, ...]:
    """The key in a file. Raises ModelUnavailable if it cannot be read or is none."""
    try:
        return parse_key(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelUnavailable(f"the watermark key in {file} cannot be read: {error}") from error


def _await_text(file: Path) -> None:
    """Wait until whoever just created the file has written into it; an empty file that stays so is left to
    `parse_key`."""
    until = time.monotonic() + _WRITTEN_SECONDS
    while file.stat().st_size == 0 and time.monotonic() < until:
        time.sleep(0.01)
