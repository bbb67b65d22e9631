"""A file to blocks of samples by FFmpeg.

Owns the allow-lists of demuxers and codecs. Runs only in the media worker process.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, cast

import av
import av.logging
import numpy as np
from numpy.typing import NDArray

from app.media.avi import pauses as pauses_of_avi
from app.media.downmix import Block, Speakers
from app.media.lengths import stated_seconds
from app.media.parts import Part
from app.media.resample import BLOCK_FRAMES
from app.media.sniff import ADTS, AVI, FLAC, MPEG_TS
from app.media.source import Broken, Caps, Damage, Source, Timeline, Unreadable
from app.media.timeline import Timed, with_silence
from app.media.track import AV_ERRORS, Track
from app.media.transport import missing_places
from backends.interface import Samples

_DEMUXERS = (
    "wav,w64,flac,aiff,au,caf,mp3,ogg,aac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,amr,avi,asf,flv,dts,dtshd,"
    "truehd,mlp,ac3,eac3,loas"
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
# Demuxers that say so where they cannot go on, and do go on behind it.
_REPORTING = {"matroska,webm", "asf", "flv", "ogg", "mov,mp4,m4a,3gp,3g2,mj2"}
_NOT_OPENED = "not on whitelist"  # what a video codec says that is called as a demuxer is
_ENDED = "File ended prematurely"  # what Matroska's says of a file that was cut
_RAW_AAC_BYTES = 1 << 20  # that are decoded at once; a frame of silence takes a few bytes and decodes to 4 KiB

_LogLine = tuple[int, str, str]  # level, who, what


def blocks(part: Part, source: Source, caps: Caps) -> Iterator[Block]:
    """The sound of `part`; its damage goes to `source`. Raises Unreadable, Broken where nothing can be decoded."""
    if part.raw_aac is not None:
        yield from _joined((0.0, frame) for frame in _raw_aac(part.data, part.raw_aac))
        return
    if not part.later:
        source.timeline = Timeline()
    # Each message by itself, or one would be told with the next file.
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    with av.logging.Capture() as messages:
        yield from _of_file(part, source, caps, messages)


def _of_file(part: Part, source: Source, caps: Caps, messages: list[_LogLine]) -> Iterator[Block]:
    buffer = io.BytesIO(part.data)
    # FFmpeg's parser loses the places of ADTS frames, which are whole as they come.
    options = {**_OPTIONS, "fflags": "noparse"} if part.container is ADTS else _OPTIONS
    try:
        file = av.open(buffer, format=part.container.demuxer, options=options, metadata_errors="ignore")
    except AV_ERRORS as error:
        raise Broken from error
    with file:
        # A broadcast whose clock was set anew seems to last for days, and so do a FLAC that was written as a stream and
        # an AVI that counts its samples by another size than FFmpeg.
        if part.container.time != "broadcast" and part.container not in (FLAC, AVI):
            _check_length(file, caps)
        stream = _audio_stream(file, source.damage)
        source.damage.stated = max(source.damage.stated, stated_seconds(file, stream, part))
        if part.container is MPEG_TS:
            source.damage.places += missing_places(part.data, stream.id)
        pauses = pauses_of_avi(part.data, stream.index) if part.container is AVI else ()
        track = Track(part, stream, source.damage, _decoder(stream), pauses)
        # FFmpeg takes a FLAC to begin with what is whole of it.
        start = 0.0 if part.container is FLAC else None if file.start_time is None else file.start_time / av.time_base
        packets = _watched(file.demux(stream), messages, source.damage)
        yield from _joined(with_silence(track.frames(packets), start, part, source, caps))
        if part.container.time in {"bytes", "counted", "broadcast"} and buffer.tell() < len(part.data):
            source.damage.ended = True


def _watched(packets: Iterator[av.Packet], messages: list[_LogLine], damage: Damage) -> Iterator[av.Packet]:
    """The packets, with what the demuxer had to pass over recorded."""
    for packet in packets:
        yield packet
        for _, name, text in messages:
            damage.places += name in _REPORTING and not text.startswith(_ENDED) and _NOT_OPENED not in text
            damage.cut |= text.startswith(_ENDED)
        messages.clear()


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
    except AV_ERRORS as error:
        raise Broken from error
    return [frame for frame in frames if isinstance(frame, av.AudioFrame)]


def _joined(frames: Iterator[Timed]) -> Iterator[Block]:
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
        return values[0][None]  # not a copy, which _samples makes: a copy takes a sixth of the time of a mono MP3
    return np.concatenate(values).reshape(planes, count)  # np.stack does the same and takes several times as long


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
