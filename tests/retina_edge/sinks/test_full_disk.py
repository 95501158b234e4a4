"""Videos and images on a full disk: finished files are complete, and incomplete files do not look finished."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from retina_edge.imaging.image_file import read_image
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.image_sink import ImageSink
from retina_edge.sinks.per_stream_sink import PerStreamSink
from retina_edge.sinks.video_sink import RESERVED_BYTES, VideoSink, partial_files
from tests.media import count_frames
from tests.results import noise
from tests.retina_edge.sinks.recorder import write_all
from tests.small_disk import small_disk


def test_videos_end_while_the_disk_has_room_for_their_indices(tmp_path: Path) -> None:
    """Each video can be played up to its end, and keeps the name of a partial file."""
    with small_disk(tmp_path / "disk", RESERVED_BYTES + 2**20) as disk:
        videos = {name: VideoSink(disk / f"{name}.mp4", fps=25) for name in ("a", "b")}
        sink = PerStreamSink(videos.__getitem__)
        with pytest.raises(OSError, match=r"No space left on device.*[ab]\.\w+\.partial\.mp4") as caught:
            write_all(sink, [noise(index // 2, stream="ab"[index % 2]) for index in range(100)])
        assert caught.value.errno == errno.ENOSPC
        assert sink.written == ()
        partial = sorted(disk.iterdir())
        assert [path.name.split(".")[0] for path in partial] == ["a", "b"]
        assert partial == sorted(partial_files(disk / "a.mp4") + partial_files(disk / "b.mp4"))
        counts = [count_frames(path)[0] for path in partial]
        assert counts == [video.frames for video in videos.values()]
        assert 2 < sum(counts) < 100


def test_a_disk_that_is_full_from_the_start_is_an_error_and_leaves_no_video(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2**20) as disk:
        sink = BackgroundSink(VideoSink(disk / "a.mp4", fps=25), capacity=4)
        with pytest.raises(OSError, match="No space left on device"), sink:
            sink.write(noise(0))
        assert not (disk / "a.mp4").exists()
        assert (sink.done, sink.lost) == (0, 1)


def test_an_image_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2**19) as disk:
        old = noise(100).frame.image
        with ImageSink(disk) as sink:
            sink.write(noise(100, name="old.png"))
            sink.write(noise(0, name="new.png"))
            with pytest.raises(OSError, match=r"No space left on device.*/old\.png'"):
                sink.write(noise(1, name="old.png"))
        assert all(read_image(path).shape == old.shape for path in disk.iterdir())
