"""What is known of an upload while it is decoded: its caps, what was read of it, and what of it could not be read.

Knows no decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MIN_RATE, MAX_RATE = 1_000, 384_000  # Hz
MAX_CHANNELS = 32
_SLACK_SECONDS, _SLACK_SHARE = 0.5, 0.01  # by which files misstate their length without being damaged

UNSUPPORTED = "The file is not audio in a supported format. Supported formats: {formats}."
BROKEN = (
    "The audio could not be decoded: the file is damaged or its codec is not supported. Supported formats: {formats}."
)


class Unreadable(Exception):
    """The bytes are not audio we read, or are over a cap. The text is for the client; {formats} stands for the list."""


class Broken(Unreadable):
    """Nothing could be decoded of a file, or of one of several that are joined."""

    def __init__(self) -> None:
        super().__init__(BROKEN)


@dataclass(slots=True)
class Caps:
    """seconds of source audio; decoded_bytes: frames x channels x 4, whatever rate the header claims."""

    seconds: float
    decoded_bytes: int


@dataclass(slots=True)
class Damage:
    """What of a file was not read as it was meant.

    packets: how many could not be decoded, or came damaged; pages: of an Ogg that were damaged or missing; objects:
    likewise of an ASF; places:
    where its container could not be read; silent: seconds of sound that were lost and are silence now; ended:
    something at the end was not read; cut: the file has no end; stated: seconds that the part which is read says it
    lasts, 0 if it does not say; missing: seconds by which parts were shorter than they said; remarks: whole sentences
    about anything else.
    """

    packets: int = 0
    pages: int = 0
    objects: int = 0
    places: int = 0
    silent: float = 0.0
    ended: bool = False
    cut: bool = False
    stated: float = 0.0
    missing: float = 0.0
    remarks: list[str] = field(default_factory=list)

    def end_part(self, seconds: float) -> None:
        """One of the files in an upload is read, which gave so many seconds."""
        if self.stated * (1 - _SLACK_SHARE) - _SLACK_SECONDS > seconds:
            self.missing += self.stated - seconds
        self.stated = 0.0

    def note(self, seconds: float) -> str:
        """For the client and the log, who learn nothing else of it; "" where all of the sound was read.

        seconds: what was read.
        """
        facts = [
            (self.packets, f"damaged packets: {self.packets}"),
            (self.pages, f"damaged or missing pages: {self.pages}"),
            (self.objects, f"pieces of sound that are missing or not whole: {self.objects}"),
            (self.places, f"unreadable places: {self.places}"),
            (self.silent, f"{self.silent:.1f} s were lost and are silence"),
            (self.ended, "reading ended before the end of the file"),
            (self.cut, "its end is missing"),
            (self.missing, f"{seconds:.1f} s were read, the file says {seconds + self.missing:.1f} s"),
        ]
        told = "; ".join(fact for holds, fact in facts if holds)
        return " ".join(([f"The file is damaged or incomplete: {told}."] if told else []) + self.remarks)


@dataclass(slots=True)
class Timeline:
    """origin: what a file's clock shows where its sound begins, seconds, None as long as it is not known; position:
    seconds of sound and silence so far."""

    origin: float | None = None
    position: float = 0.0


@dataclass(slots=True)
class Source:
    """What was read: frames by rate in Hz (a rate may change on the way), most channels, container's name; timeline:
    that of the part that is read."""

    container: str
    frames: dict[int, int] = field(default_factory=dict)
    channels: int = 0
    decoded_bytes: int = 0
    damage: Damage = field(default_factory=Damage)
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def seconds(self) -> float:
        """By the source's own clock."""
        return sum(frames / rate for rate, frames in self.frames.items())

    @property
    def rate(self) -> int:
        """The rate of most of it, Hz; 0 if there is nothing."""
        return max(self.frames, key=self.frames.__getitem__, default=0)

    @property
    def note(self) -> str:
        """What could not be read, "" if nothing."""
        return self.damage.note(self.seconds)

    def count(self, frames: int, channels: int, rate: int, caps: Caps) -> None:
        """Add a block, or raise Unreadable if it is over a cap."""
        check_shape(rate, channels)
        self.channels = max(self.channels, channels)
        self.frames[rate] = self.frames.get(rate, 0) + frames
        self.decoded_bytes += frames * channels * 4
        if self.seconds > caps.seconds:
            raise Unreadable(f"The audio is longer than the limit of {caps.seconds:g} seconds.")
        if self.decoded_bytes > caps.decoded_bytes:
            raise Unreadable(f"The audio decodes to more than the limit of {caps.decoded_bytes} bytes.")

    def has_room(self, seconds: float, rate: int, caps: Caps) -> bool:
        """Whether that much silence at `rate` Hz, one channel, would keep to the caps."""
        within = self.decoded_bytes + seconds * rate * 4 <= caps.decoded_bytes
        return within and self.seconds + seconds <= caps.seconds


def check_shape(rate: int, channels: int) -> None:
    """Raises Unreadable for a rate or a channel count that no recording has."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Unreadable(f"The audio's sample rate of {rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz.")
    if not 1 <= channels <= MAX_CHANNELS:
        raise Unreadable(f"The audio has {channels} channels; at most {MAX_CHANNELS} are supported.")
