"""The text of a GStreamer pipeline: its form, the pipeline of a CSI camera, and what may be shown of it."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from engines.core.errors import SourceError
from retina_edge.system.redaction import is_secret_property, redact

PREFIX = "gst:"
CSI = "csi://"
CSI_DEFAULTS = {"width": 1280, "height": 720, "fps": 30, "flip": 0}
MAX_FLIP = 7  # flip-method of nvvidconv

# Elements that read files. They deliver frames as fast as the reader takes them, so no frame may be dropped.
_FILE_ELEMENTS = frozenset({"filesrc", "multifilesrc", "splitmuxsrc", "imagesequencesrc", "pushfilesrc", "fdsrc"})
# Properties to show, because they distinguish cameras and are not secret. Addresses in them are redacted.
_SHOWN = frozenset({"device", "sensor-id", "location", "uri", "address", "port", "pattern", "num-buffers"})


def csi_pipeline(address: str) -> tuple[str, int]:
    """Return the pipeline for ``csi://N?width=&height=&fps=&flip=``, and the number N of the camera.

    Raises:
        SourceError: if the address has another form, an unknown key, or a value out of range.
    """
    parts = urlsplit(address)
    values = dict(CSI_DEFAULTS)
    wrong = [parts.path.strip("/")] if parts.path.strip("/") or not parts.netloc.isdecimal() else []
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        least, most = (0, MAX_FLIP) if key == "flip" else (1, 2**15)
        if key not in values or not (value.isdecimal() and least <= int(value) <= most):
            wrong.append(f"{key}={value}")
        else:
            values[key] = int(value)
    if wrong:
        raise SourceError(
            f"{address}: expected csi://NUMBER?width=1280&height=720&fps=30&flip=0 with flip from 0 to {MAX_FLIP}, "
            f"got {' '.join(wrong) or address}"
        )
    return (
        f"nvarguscamerasrc sensor-id={int(parts.netloc)} ! video/x-raw(memory:NVMM),width={values['width']},"
        f"height={values['height']},framerate={values['fps']}/1,format=NV12 ! nvvidconv flip-method={values['flip']} "
        "! video/x-raw,format=BGRx"
    ), int(parts.netloc)


def without_appsink(pipeline: str) -> str:
    """Return a pipeline without the ``appsink`` at its end, and without the ``!`` before it.

    Raises:
        SourceError: if nothing is left, or an appsink is elsewhere, so that no frame would arrive.

    Examples:
        >>> without_appsink("videotestsrc ! videoconvert ! appsink drop=1")
        'videotestsrc ! videoconvert'
    """
    text = re.sub(r"(^|!)\s*appsink(\s[^!]*)?$", "", pipeline.strip()).strip().removesuffix("!").strip()
    if not text or re.search(r"(^|!)\s*appsink\b", text):
        raise SourceError(
            f"{PREFIX}{shown_pipeline(pipeline)}: expected a GStreamer pipeline with at most one appsink, at its end, "
            "for instance gst:v4l2src device=/dev/video0 ! videoconvert"
        )
    return text


def is_live(pipeline: str) -> bool:
    """True if a pipeline delivers frames in real time, instead of as fast as the reader takes them.

    Examples:
        >>> is_live("v4l2src device=/dev/video0"), is_live("filesrc location=a.mp4 ! decodebin")
        (True, False)
    """
    words = pipeline.split()
    if any(word in _FILE_ELEMENTS or word.startswith(("uri=file:", 'uri="file:')) for word in words):
        return False
    return "videotestsrc" not in words or any(re.fullmatch(r"is-live=(true|1|yes)", word, re.I) for word in words)


def shown_pipeline(pipeline: str) -> str:
    """Return a pipeline for messages: its elements, and the properties that are not secret.

    Examples:
        >>> shown_pipeline("rtspsrc location=rtsp://me:secret@camera/x user-pw=secret ! decodebin")
        'rtspsrc location=rtsp://***@camera/x ! decodebin'
    """
    shown = []
    for word in _words(pipeline):
        key, equals, value = word.partition("=")
        if not equals or "/" in key or "," in key:  # an element, or caps
            shown.append(redact(word))
        elif key in _SHOWN:
            shown.append(f"{key}={redact(value)}")
    return " ".join(shown)


def secrets(pipeline: str) -> list[str]:
    """Return the secret property values and the logins of a pipeline, the longest first, to hide them in messages.

    A user name without a password is not included, because it may be part of any word.
    """
    texts = set()
    for word in _words(pipeline):
        key, _, value = word.partition("=")
        if is_secret_property(key):
            texts.add(value.strip("\"'"))
        for authority in re.findall(r"://(.+)@", word):
            texts |= {authority, authority.partition(":")[2]}
    return sorted(texts - {""}, key=lambda item: (-len(item), item))


def _words(pipeline: str) -> list[str]:
    """Split a pipeline at spaces, except inside quotes and around an equals sign."""
    text = re.sub(r"\s*=\s*", "=", pipeline)
    return re.findall(r"""(?:"[^"]*"|'[^']*'|\S)+""", text)
