"""The espeak-ng shared library of the espeakng-loader wheel, driven through ctypes.

Owns the foreign functions, their types and the one synthesis callback. Knows no requests and no voice names of ours.
The library's state is global to the process, so there is one `EspeakLibrary` per process and one call at a time.
Function signatures and constants: espeak-ng 1.52, speak_lib.h.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.interface import ModelUnavailable, Samples

SLOWEST_WPM, FASTEST_WPM = 80, 449  # what the library's own rate control covers; from 450 on it may time-compress

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1  # and neither espeakSSML (0x10) nor espeakPHONEMES (0x100): text is never markup
_POS_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CALLBACK_MS = 200

# Voices that the wheel lists without their dictionaries (espeakng-loader 0.2.4): they make no sound of any text.
_MUTE = frozenset({"gmq/fo", "trk/kaa", "art/xex"})
_UNREADABLE = "\ua66e"  # multiocular O: no language has a rule for it, so its code is spelled: "letter", then digits

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _VoiceStruct(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class LibraryVoice:
    """One language voice of the library. languages: (priority, code), the lowest priority number fits best."""

    name: str
    identifier: str
    languages: tuple[tuple[int, str], ...]


class EspeakLibrary:
    """The loaded library. `rate` is the sample rate of everything it makes, Hz."""

    def __init__(self) -> None:
        library_path, data_path = _wheel_paths()
        try:
            self._lib = ctypes.CDLL(library_path)
        except OSError as error:
            raise ModelUnavailable(f"the espeak-ng library does not load: {error}") from error
        self._declare()
        self.rate = int(
            self._lib.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS, _CALLBACK_MS, _encoded(data_path), _INITIALIZE_DONT_EXIT
            )
        )
        if self.rate <= 0:
            raise ModelUnavailable(
                f"espeak-ng cannot read its data in {data_path}; "
                "the path may have at most 160 characters, all of them in the system's code page"
            )
        self._variants = data_path / "voices" / "!v"
        self._parts: list[NDArray[np.int16]] = []
        self._callback = _SynthCallback(self._receive)  # kept alive as long as the library may call it

    def _declare(self) -> None:
        lib = self._lib
        lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        lib.espeak_SetSynthCallback.argtypes = [_SynthCallback]
        lib.espeak_SetSynthCallback.restype = None
        lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        lib.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
        lib.espeak_ListVoices.argtypes = [ctypes.c_void_p]
        lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_VoiceStruct))
        lib.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
        lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        lib.espeak_Info.argtypes = [ctypes.c_void_p]
        lib.espeak_Info.restype = ctypes.c_char_p
        unsigned, pointer = ctypes.c_uint, ctypes.c_void_p
        lib.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, unsigned, ctypes.c_int, unsigned, unsigned, pointer, pointer,
        ]  # fmt: skip

    def _receive(self, wave: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if wave and count > 0:
            self._parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0  # 1 would stop the synthesis

    def version(self) -> str:
        return str(self._lib.espeak_Info(None).decode())

    def voices(self) -> list[LibraryVoice]:
        """Every language voice the data folder holds that can speak."""
        found, listed, index = [], self._lib.espeak_ListVoices(None), 0
        while listed[index]:
            voice = listed[index].contents
            if (identifier := voice.identifier.decode()) not in _MUTE:
                found.append(LibraryVoice(voice.name.decode(), identifier, _languages(voice.languages)))
            index += 1
        return found

    def variants(self) -> frozenset[str]:
        """Names that may follow a "+": speakers that any language can be spoken with."""
        return frozenset(file.name for file in self._variants.iterdir())

    def set_voice(self, identifier: str) -> bool:
        """Choose by identifier ("gmw/en-US", with a variant "gmw/en-US+f3"). False if there is none of that name."""
        return bool(self._lib.espeak_SetVoiceByName(identifier.encode()) == 0)

    def phonemes(self, text: str) -> str:
        """What the chosen voice would say, in the library's own phoneme names."""
        pieces, rest = [], ctypes.c_char_p(text.replace("\0", " ").encode())
        while rest.value is not None:
            pieces.append((self._lib.espeak_TextToPhonemes(ctypes.byref(rest), _CHARS_UTF8, 0) or b"").decode())
        return " ".join(pieces)

    def spells(self, letter: str) -> bool:
        """Whether the chosen voice says "letter", perhaps with the script's name, and the digits of its code."""
        return self._start(letter).endswith(self._start(_UNREADABLE))

    def _start(self, letter: str) -> str:
        """The first word that is said of a letter, without stress and tones, which depend on what follows."""
        first, mark, _ = self.phonemes(letter).partition("_|")
        return "".join(sign for sign in first if sign not in "',0123456789") if mark else ""

    def synthesize(self, text: str, words_per_minute: int, pitch: int, pitch_range: int) -> Samples:
        """`text` as float32 [time] in -1..1 at `rate`; words_per_minute is clamped to SLOWEST..FASTEST_WPM."""
        speed = min(max(words_per_minute, SLOWEST_WPM), FASTEST_WPM)
        for parameter, value in ((_RATE, speed), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._lib.espeak_SetSynthCallback(
            self._callback
        )  # here, so that a second instance cannot take over the first one's
        self._parts.clear()
        data = text.replace("\0", " ").encode() + b"\0"
        status = self._lib.espeak_Synth(data, len(data), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        if status != 0:
            raise RuntimeError(f"espeak_Synth returned {status}")
        parts, self._parts = self._parts, []
        if not parts:
            return np.zeros(0, np.float32)
        return np.concatenate(parts).astype(np.float32) / np.float32(32768)


def _wheel_paths() -> tuple[str, Path]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ModelUnavailable(
            "espeak-ng is not installed; make serve, or setup.ps1 on Windows, brings it (extra `embedded`)"
        ) from error
    return str(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def _encoded(path: Path) -> bytes:
    """The library opens files with the C runtime, which on Windows reads paths in the ANSI code page."""
    try:
        return str(path).encode("mbcs" if sys.platform == "win32" else sys.getfilesystemencoding())
    except UnicodeEncodeError as error:
        raise ModelUnavailable(f"espeak-ng cannot open {path}: its name does not fit the system's code page") from error


def _languages(address: int) -> tuple[tuple[int, str], ...]:
    """Read the voice's list: (priority byte, zero-terminated code) repeated, ended by a zero priority."""
    found = []
    while (priority := ctypes.string_at(address, 1)[0]) != 0:
        code = ctypes.string_at(address + 1)
        found.append((priority, code.decode()))
        address += 2 + len(code)
    return tuple(found)
