"""Microphone and loudspeaker through sounddevice (PortAudio), which the extra `microphone` brings.

The only module that imports it, and only when a device is opened. Knows no server.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.commands.playback import Playlist
from app.commands.sources import PIECE_SECONDS, RATE, SAMPLE_BYTES, NoSource
from app.realtime.formats import PCM_RATES

_LOOK_SECONDS = 0.2  # between two looks whether to stop
_MISSING = (
    "the microphone and the loudspeaker need the package sounddevice: make serve EXTRAS=microphone, on Windows "
    ".\\setup.ps1 -Extras microphone, or pip install sounddevice"
)


class Microphone:
    """Gives what is said from its opening on. rate: Hz, the API's where the device has it."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def take(self, data: Any, frames: int, times: Any, status: Any) -> None:
        """Called by the device's own thread."""
        self._pieces.put(bytes(data))

    def pieces(self, stop: threading.Event) -> Iterator[bytes]:
        while not stop.is_set():
            try:
                yield self._pieces.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue


@contextmanager
def microphone(device: str = "") -> Iterator[Microphone]:
    """Open a microphone. device: number or a part of its name, "" for the system's own. Raises NoSource."""
    sounddevice, chosen = _library(), _chosen(device)
    try:
        microphone = Microphone(_input_rate(sounddevice, chosen))
        stream = sounddevice.RawInputStream(
            samplerate=microphone.rate,
            blocksize=round(microphone.rate * PIECE_SECONDS),
            device=chosen,
            channels=1,
            dtype="int16",
            callback=microphone.take,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise NoSource(f"no microphone can be opened: {_first_line(error)}") from error
    with stream:
        yield microphone


@contextmanager
def loudspeaker(playlist: Playlist, device: str = "") -> Iterator[None]:
    """Play what is in the list, silence where there is nothing. Raises NoSource."""
    sounddevice = _library()

    def give(data: Any, frames: int, times: Any, status: Any) -> None:
        data[:] = playlist.take(frames * SAMPLE_BYTES)

    try:
        stream = sounddevice.RawOutputStream(
            samplerate=RATE, device=_chosen(device), channels=1, dtype="int16", callback=give
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise NoSource(f"no loudspeaker can be opened: {_first_line(error)}; --output writes a file") from error
    with stream:
        yield


def _library() -> Any:
    """Raises NoSource where it, or on Linux PortAudio itself, is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise NoSource(_MISSING) from error
    except OSError as error:
        raise NoSource(f"{error}; on Debian and Ubuntu: sudo apt install libportaudio2") from error
    return sounddevice


def _input_rate(sounddevice: Any, device: int | str | None) -> int:
    """The API's rate if the device has it, else the device's own if the server takes that one."""
    try:
        sounddevice.check_input_settings(device=device, channels=1, dtype="int16", samplerate=RATE)
    except sounddevice.PortAudioError:
        own: int = round(sounddevice.query_devices(device, "input")["default_samplerate"])
        if own in PCM_RATES:
            return own
        raise
    return RATE


def _chosen(device: str) -> int | str | None:
    return int(device) if device.isdecimal() else device or None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
