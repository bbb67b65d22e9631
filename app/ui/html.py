"""Pieces of HTML that the page shows: the state of the server, notes about an answer, times of words.

Owns their wording. Pure functions of JSON documents of the API; everything that comes from outside is escaped. Knows
neither Gradio nor HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from app.ui.speaker_files import SpokenSegment

# What a person wants to know of a deployment's state, and the colour of its dot.
STATES: Mapping[str, tuple[str, str]] = {
    "ready": ("loaded", "good"),
    "busy": ("working", "good"),
    "unloaded": ("loads when asked", "idle"),
    "loading": ("loading", "wait"),
    "pulling": ("fetching weights", "wait"),
    "absent": ("weights missing", "off"),
    "failed": ("failed", "bad"),
}
_OVERALL: Mapping[str, tuple[str, str]] = {
    "ok": ("Ready", "good"),
    "loading": ("Loading", "wait"),
    "degraded": ("Something failed", "bad"),
    "draining": ("Shutting down", "bad"),
}
_COLOURS = 8  # of speakers in page.css; the ninth has that of the first
UNUSABLE = frozenset({"absent", "failed", "pulling"})


def state_text(state: str) -> str:
    """Describe a deployment's state in plain words."""
    return STATES.get(state, (state, "idle"))[0]


def strip(document: Mapping[str, Any]) -> str:
    """Render the line at the top: how the server is, what is loaded, how full the devices are. document: of /health."""
    text, colour = _OVERALL.get(document["status"], (document["status"], "idle"))
    loaded = [name for name, one in document["deployments"].items() if one["state"] in ("ready", "busy")]
    parts = [f'<span class="sg-chip">{_dot(colour)}{escape(text)}</span>']
    parts += [_device_chip(device) for device in document["devices"]]
    parts.append(f'<span class="sg-chip">{_count(len(loaded), "model")} loaded</span>')
    if running := document["in_flight"]:
        parts.append(f'<span class="sg-chip">{_count(running, "request")} running</span>')
    return f'<div class="sg-strip">{"".join(parts)}</div>'


def unreachable(message: str) -> str:
    """Show why the server cannot be reached, in place of the strip of figures."""
    return f'<div class="sg-strip"><span class="sg-chip">{_dot("bad")}{escape(message)}</span></div>'


def health(document: Mapping[str, Any]) -> str:
    """Render devices and deployments as cards. document: of /health."""
    about = f"Version {document['version']}, up {_duration(document['uptime_seconds'])}"
    devices = "".join(map(_device_card, document["devices"]))
    deployments = "".join(_deployment_card(name, one) for name, one in document["deployments"].items())
    return (
        f'<p class="sg-small">{escape(about)}</p><h3>Devices</h3><div class="sg-cards">{devices}</div>'
        f'<h3>Deployments</h3><div class="sg-cards">{deployments}</div>'
    )


def note(headers: Mapping[str, str]) -> str:
    """Render the server's notes on an answer: time, device, stand-ins, remarks. headers: of the answer,
    lower-case."""
    spent = headers.get("x-gateway-model-ms")
    where = " ".join(
        escape(headers[f"x-gateway-{name}"]) for name in ("engine", "device", "dtype") if f"x-gateway-{name}" in headers
    )
    time = (
        f"Inference time: <b>{float(spent) / 1000:.2f} s</b>" if spent else "Inference time: told in the server's log"
    )
    lines = [f"{time} <span class=sg-small>on {where}</span>" if where else time]
    if stand_in := headers.get("x-gateway-fallback"):
        lines.append(f"Answered by <b>{escape(stand_in)}</b>, because the deployment you chose cannot run now.")
    lines += [escape(headers[name]) for name in ("x-gateway-note",) if headers.get(name)]
    if ignored := headers.get("x-gateway-ignored"):
        lines.append(f"Not used here: {escape(ignored)}")
    return f'<div class="sg-note">{"<br>".join(lines)}</div>'


def problem(message: str) -> str:
    """Render the reason why there is no answer."""
    return f'<div class="sg-note sg-bad" role="alert"><b>That did not work.</b><br>{escape(message)}</div>'


def times(document: Mapping[str, Any]) -> str:
    """Render words with their start, or segments where there are no words. document: a verbose_json transcript."""
    if words := document.get("words"):
        spans = (
            f'<span class="sg-word"><small>{one["start"]:.2f}</small>{escape(one["word"])}</span>' for one in words
        )
        label = '<div class="sg-label">Words, with the second each begins</div>'
        return f'<div class="sg-times">{label}{"".join(spans)}</div>'
    rows = (
        f"<div><small>{one['start']:.2f} to {one['end']:.2f}</small> {escape(one['text'])}</div>"
        for one in document.get("segments") or ()
    )
    shown = "".join(rows)
    return f'<div class="sg-times"><div class="sg-label">Segments, in seconds</div>{shown}</div>' if shown else ""


def turns(spoken: Sequence[SpokenSegment], source: str) -> str:
    """Render who says what: a field for each speaker's name, the recording, and the turns in the speakers' colours.

    source: address of the recording. What happens on a click is the work of speakers.js.
    """
    if not spoken:
        return '<div class="sg-note">Nobody speaks here.</div>'
    colours = {name: index % _COLOURS for index, name in enumerate(dict.fromkeys(turn.speaker for turn in spoken))}
    fields = "".join(_speaker_field(name, colour) for name, colour in colours.items())
    shown = "".join(_turn(turn, colours[turn.speaker]) for turn in spoken)
    return (
        f'<div class="sg-speakers"><div class="sg-label">Speakers, whose names you can change</div>'
        f'<div class="sg-strip">{fields}</div><audio controls preload="metadata" src="{escape(source)}"></audio>'
        f'<div class="sg-turns" role="log">{shown}</div></div>'
    )


def _speaker_field(name: str, colour: int) -> str:
    known = escape(name)
    field = f'<input data-speaker="{known}" value="{known}" maxlength="64" aria-label="Name of {known}">'
    return f'<label class="sg-chip sg-voice-{colour}"><i class="sg-dot"></i>{field}</label>'


def _turn(turn: SpokenSegment, colour: int) -> str:
    times = f"{_clock(turn.start)} to {_clock(turn.end)}"
    play = (
        f'<button type="button" data-start="{turn.start:.3f}" data-end="{turn.end:.3f}" '
        f'aria-label="Play {times}" title="Play this turn">▶</button>'
    )
    who = f'<b data-speaker="{escape(turn.speaker)}">{escape(turn.speaker)}</b>'
    return (
        f'<div class="sg-turn sg-voice-{colour}">{play} {who} <span class="sg-small">{times}</span>'
        f"<div>{escape(turn.text)}</div></div>"
    )


def _clock(seconds: float) -> str:
    """Format a place in a recording: "0:07.5", "1:02:03.0"."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def _device_chip(device: Mapping[str, Any]) -> str:
    room = f"{_size(device['memory_used_bytes'])} of {_size(device['budget_bytes'])}"
    return f'<span class="sg-chip"><b>{escape(device["id"])}</b>&nbsp;{escape(device["name"])}, {room}</span>'


def _device_card(device: Mapping[str, Any]) -> str:
    used, budget = device["memory_used_bytes"], device["budget_bytes"]
    full = min(100.0, 100 * used / budget) if budget else 0.0
    return (
        f'<div class="sg-card"><b>{escape(device["id"])}</b> {escape(device["name"])}'
        f'<div class="sg-bar"><div style="width:{full:.0f}%"></div></div>'
        f'<div class="sg-small">models use {_size(used)} of {_size(budget)}</div></div>'
    )


def _deployment_card(name: str, one: Mapping[str, Any]) -> str:
    text, colour = STATES.get(one["state"], (one["state"], "idle"))
    facts = [escape(one["model"] or one["backend"]), *_where(one), *_work(one)]
    why = one["error"] or one["reason"]
    remark = f'<div class="sg-why{" sg-bad" if one["state"] == "failed" else ""}">{escape(why)}</div>' if why else ""
    lines = "".join(f'<div class="sg-small">{fact}</div>' for fact in facts)
    return (
        f'<div class="sg-card"><b>{escape(name)}</b><span class="sg-state">{_dot(colour)}{escape(text)}</span>'
        f"{lines}{remark}</div>"
    )


def _where(one: Mapping[str, Any]) -> Iterable[str]:
    """Engine, device and number format as far as they are decided."""
    parts = [
        f"{word}{escape(one[key])}"
        for word, key in (("", "engine"), ("on ", "device"), ("in ", "dtype"))
        if one[key] != "auto"
    ]
    if parts:
        yield " ".join(parts)


def _work(one: Mapping[str, Any]) -> Iterable[str]:
    """Yield memory, speed and load, as far as they are known."""
    if one["footprint_bytes"]:
        yield _size(one["footprint_bytes"])
    if factor := one["real_time_factor"]:
        yield f"{factor:.2f} s of work for a second of audio"
    if one["jobs_active"] or one["queue_depth"]:
        yield f"{one['jobs_active']} running, {one['queue_depth']} waiting"


def _dot(colour: str) -> str:
    return f'<i class="sg-dot sg-{colour}"></i>'


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    """Format bytes: "62 MiB", "1.4 GiB"."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    """Format seconds: "45 s", "12 min", "3 h 20 min"."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
