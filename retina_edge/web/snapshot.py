"""A snapshot of a stream: its newest frame in full size, once with boxes and once without, in one answer.

Two requests would return two different frames. Browsers read the answer with ``Response.formData``.
"""

from __future__ import annotations

import secrets

from fastapi import Response

from retina_edge.pipeline.result import Result
from retina_edge.system.timestamps import file_time
from retina_edge.web.preview import jpeg

MEDIA_TYPE = "multipart/form-data"
# JPEG quality from 0 to 100: a snapshot is kept, a preview is not.
QUALITY = 95


def snapshot(result: Result) -> Response:
    """Return the frame of a result as JPEG: a field ``annotated`` with boxes, and ``plain`` without.

    Args:
        result: the result; its stream and time of capture are in the file names.
    """
    height, width = result.frame.image.shape[:2]
    name = f"{result.stream}-{file_time(result.frame.captured_at)}"
    boundary = secrets.token_hex(16)
    body = b""
    for field, image in (("annotated", result.annotated), ("plain", result.frame.image)):
        body += (
            (
                f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}-{field}.jpg"\r\n'
                "Content-Type: image/jpeg\r\n\r\n"
            ).encode()
            + jpeg(image, max(height, width), QUALITY)
            + b"\r\n"
        )
    body += f"--{boundary}--\r\n".encode()
    return Response(body, media_type=f"{MEDIA_TYPE}; boundary={boundary}")
