"""A file to blocks of samples by FFmpeg: the track, its packets, their times and their damage.

Owns the allow-lists of demuxers and codecs. Runs only in the media worker process.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from app.media.downmix import Block, Speakers
from app.media.parts import Part
from app.media.resample import BLOCK_FRAMES
from app.media.sniff import FLAC
from app.media.source import Broken, Caps, Damage, Source, Unreadable
from backends.interface import Samples

_DEMUXERS = (
    "wav,w64,flac,aiff,au,caf,mp3,ogg,aac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,amr,avi,asf,flv,dts,truehd"
)
_CODECS = (
    "aac,aac_latm,mp3,mp3float,mp2,mp2float,mp1,mp1float,opus,libopus,vorbis,libvorbis,flac,alac,ac3,eac3,dca,truehd,mlp,"
    "amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,wmav1,wmav2,wmapro,wmalossless,wmavoice,speex,nellymoser,"
    "g722,g726,g726le,g723_1,gsm,gsm_ms,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,adpcm_swf,adpcm_yamaha,pcm_u8,pcm_s8,pcm_s16le,"
    "pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_mulaw,pcm_alaw,"
    "pcm_bluray,pcm_dvd"
)
# Neither nested files nor network: the only source is the buffer that we hand over. Video decoders are never opened.
_OPTIONS = {"format_whitelist": _DEMUXERS, "codec_whitelist": _CODECS, "protocol_whitelist": "none"}
# FFmpeg's own decoder of the key knows no silence frames, which telephones write in every pause.
_BETTER = {"amrnb": "libopencore_amrnb", "amrwb": "libopencore_amrwb"}
# Sample format, packed: how numpy calls it, and the value of full scale.
_FORMATS: dict[str, tuple[str, float]] = {
    "u8": ("u1", 128.0),
    "s16": ("i2", 32_768.0),
    "s32": ("i4", 2_147_483_648.0),
    "s64": ("i8", 9_223_372_036_854_775_808.0),
    "flt": ("f4", 1.0),
    "dbl": ("f8", 1.0),
}
_BAD_PACKETS = 1000  # in a row, or so many and nine of ten: an endless stream of noise is not worth reading
_RAW_AAC_BYTES = 1 << 20  # that are decoded at once; a frame of silence takes a few bytes and decodes to 4 KiB
_GAP_SECONDS = 0.1  # by which a packet may be late: clocks are rounded, and sound and picture begin about together
_JUMP_SECONDS = (
    10.0  # of a broadcast's clock, where it was set anew; FFmpeg's own tool takes it so (dts_delta_threshold)
)

# What PyAV raises on damaged files: FFmpeg's errors, and its own of an unknown codec or a track that is not in its
# list.
_AV_ERRORS = (av.FFmpegError, ValueError, LookupError)

_Timed = tuple[float, av.AudioFrame]  # seconds of silence before the frame


def blocks(part: Part, source: Source, caps: Caps) -> Iterator[Block]:
    """The sound of `part`; its damage goes to `source`. Raises Unreadable, Broken where nothing can be decoded."""
    if part.raw_aac is not None:
        yield from _joined((0.0, frame) for frame in _raw_aac(part.data, part.raw_aac))
        return
    buffer = io.BytesIO(part.data)
    try:
        file = av.open(buffer, format=part.container.demuxer, options=_OPTIONS, metadata_errors="ignore")
    except _AV_ERRORS as error:
        raise Broken from error
    with file:
        # A broadcast whose clock was set anew seems to last for days, and so does a FLAC that was written as a stream.
        if part.container.time != "broadcast" and part.container is not FLAC:
            _check_length(file, caps)
        stream = _audio_stream(file, source.damage)
        if part.stated is None:
            source.damage.stated += _stated_seconds(file, stream, part)
        counted = part.container.time == "counted" and not part.container.soundfile_first
        frames = _frames(file, stream, source.damage, counted=counted)
        yield from _joined(_timed(frames, file, part, source, caps))
        if part.container.time in {"counted", "broadcast"} and buffer.tell() < len(part.data):
            source.damage.ended = True


def _check_length(file: av.container.InputContainer, caps: Caps) -> None:
    """Refuse at once what claims to be far too long."""
    if file.streams.audio and file.duration is not None and file.duration / av.time_base > 1.1 * caps.seconds:
        raise Unreadable(f"The audio is longer than the limit of {caps.seconds:g} seconds.")


def _audio_stream(file: av.container.InputContainer, damage: Damage) -> av.AudioStream:
    """The track that a player plays: the default one, or the first whose codec is on the list."""
    if not file.streams.audio:
        raise Unreadable("The file has no audio track.")
    tracks = sorted(file.streams.audio, key=lambda track: not track.disposition & av.stream.Disposition.default)
    known = [track for track in tracks if _codec(track) in _CODECS.split(",")]
    if not known:
        codec = _codec(tracks[0])
        raise Unreadable(f"The audio codec ({codec}) is not supported. Supported formats: {{formats}}.")
    if known[0] is not tracks[0]:
        damage.remarks.append(
            f"Another audio track was read: the codec of the default one ({_codec(tracks[0])}) is not supported."
        )
    known[0].codec_context.thread_count = 1
    return known[0]


def _codec(track: av.AudioStream) -> str:
    return "unknown" if track.codec_context is None else track.codec_context.name


def _stated_seconds(file: av.container.InputContainer, stream: av.AudioStream, part: Part) -> float:
    """How long the file says its sound lasts, 0 where it does not say, or where that is only guessed."""
    if part.container.time != "stamped":
        return 0.0
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = len(file.streams) == 1 and file.duration
    return file.duration / av.time_base if alone and file.duration else 0.0


def _frames(
    file: av.container.InputContainer, stream: av.AudioStream, damage: Damage, *, counted: bool
) -> Iterator[av.AudioFrame]:
    """Decoded frames, stepping over damaged packets. Raises Broken if there was nothing else.

    counted: nothing but its packets says how long the file lasts; a decoder may give nothing for some of them.
    """
    decoder = _decoder(stream)
    good = bad = row = 0
    anything = False
    begun = ended = 0
    try:
        for packet in file.demux(stream):
            if packet.pts is not None:
                begun, ended = begun if ended else packet.pts, packet.pts + (packet.duration or 0)
            try:
                frames = packet.decode() if decoder is None else decoder.decode(packet)
            except _AV_ERRORS:
                bad, row = bad + 1, row + 1
                damage.packets += 1
                if row >= _BAD_PACKETS or (bad >= _BAD_PACKETS and bad > 9 * good):
                    damage.ended = True
                    break
                continue
            good, row = good + 1, 0
            damage.packets += packet.is_corrupt
            anything = anything or bool(frames)
            yield from frames
    except _AV_ERRORS as error:
        if not anything:
            raise Broken from error
        damage.ended = True
    if bad and not anything:
        raise Broken
    if counted and stream.time_base:
        damage.stated += float((ended - begun) * stream.time_base)


def _decoder(stream: av.AudioStream) -> av.AudioCodecContext | None:
    """A decoder to be used instead of the stream's own; None if there is none, or this FFmpeg lacks it."""
    better = _BETTER.get(stream.codec_context.name)
    if better is None or better not in av.codecs_available:
        return None
    return cast(av.AudioCodecContext, av.CodecContext.create(better, "r"))


def _raw_aac(data: bytes, configuration: bytes) -> list[av.AudioFrame]:
    """AAC without anything between its frames: the decoder finds the end of each, given all of them at once."""
    if len(data) > _RAW_AAC_BYTES:
        raise Unreadable(f"AAC in wav is supported up to {_RAW_AAC_BYTES} bytes, or with ADTS frames.")
    decoder = av.CodecContext.create("aac", "r")
    decoder.extradata = configuration or None
    try:
        frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    except _AV_ERRORS as error:
        raise Broken from error
    return [frame for frame in frames if isinstance(frame, av.AudioFrame)]


def _timed(
    frames: Iterator[av.AudioFrame], file: av.container.InputContainer, part: Part, source: Source, caps: Caps
) -> Iterator[_Timed]:
    """Frames with the silence that the file's clock leaves before them: a track that begins late, a hole, lost
    packets.

    Times count from the start of the file, so that a track alone with an offset begins at once.
    """
    origin = None if file.start_time is None else file.start_time / av.time_base
    position = 0.0
    for frame in frames:
        silence, at = 0.0, frame.time
        if at is not None and part.container.time != "none":
            origin = at if origin is None else origin
            silence = at - origin - position
            if silence <= _GAP_SECONDS:
                origin = at - position if silence < -_JUMP_SECONDS else origin
                silence = 0.0
            elif not _is_meant(silence, position, frame.sample_rate, part, source, caps):
                origin, silence = at - position, 0.0
        yield silence, frame
        position += silence + frame.samples / frame.sample_rate


def _is_meant(silence: float, position: float, rate: int, part: Part, source: Source, caps: Caps) -> bool:
    """Whether so many seconds of silence belong there; what is lost is recorded as damage."""
    if part.container.time == "broadcast" and position and silence > _JUMP_SECONDS:
        return False
    if not source.has_room(silence, rate, caps):
        source.damage.remarks.append(
            f"The file's clock jumps by {silence:.0f} s, which would not fit; it was not followed."
        )
        return False
    if part.container.time == "counted":
        source.damage.silent += silence
    return True


def _joined(frames: Iterator[_Timed]) -> Iterator[Block]:
    """Codec frames last some 20 ms each; they are converted in larger pieces. The format may change on the way."""
    pieces: list[NDArray[Any]] = []
    kind, count = ("", 0, 0), 0
    speakers: Speakers = ()
    for silence, frame in frames:
        of_frame = (frame.format.name, frame.layout.nb_channels, frame.sample_rate)
        if pieces and (silence or of_frame != kind or count >= BLOCK_FRAMES // 4):
            yield Block(_samples(pieces, *kind[:2]), kind[2], speakers)
            pieces, count = [], 0
        if silence:
            yield from _silence(silence, frame.sample_rate)
        if of_frame != kind:
            kind, speakers = of_frame, tuple(channel.name for channel in frame.layout.channels)
        pieces.append(_values(frame))
        count += frame.samples
    if pieces:
        yield Block(_samples(pieces, *kind[:2]), kind[2], speakers)


def _silence(seconds: float, rate: int) -> Iterator[Block]:
    left = round(seconds * rate)
    while left > 0:
        yield Block(np.zeros((min(left, BLOCK_FRAMES), 1), np.float32), rate)
        left -= BLOCK_FRAMES


def _values(frame: av.AudioFrame) -> NDArray[Any]:
    """A frame's values as they are: planar [channels, time], packed [1, all].

    PyAV's own conversion takes FFmpeg's list of planes to end with a null, which a list of eight channels does not: it
    reads whatever lies behind and crashes.
    """
    name, channels = frame.format.name, frame.layout.nb_channels
    planes, count = (channels, frame.samples) if name.endswith("p") else (1, frame.samples * channels)
    dtype = _FORMATS[name.removesuffix("p")][0]
    values = [np.frombuffer(plane, dtype, count) for plane in frame.planes[:planes]]
    if planes == 1:
        return values[0][None]  # not a copy, which _samples makes: np.stack takes a sixth of the time of a mono MP3
    return np.stack(values)


def _samples(pieces: list[NDArray[Any]], kind: str, channels: int) -> Samples:
    """Pieces of one sample format as float32 [frames, channels]. Planar pieces are [channels, time], others [1,
    all]."""
    block = np.concatenate(pieces, axis=1)
    block = block.T if kind.endswith("p") else block.reshape(-1, channels)
    scale = _FORMATS[kind.removesuffix("p")][1]
    if block.dtype == np.uint8:
        block = block.astype(np.float32) - np.float32(128.0)
    scaled: Samples = block.astype(np.float32, copy=False)
    return scaled if scale == 1.0 else scaled * np.float32(1.0 / scale)
