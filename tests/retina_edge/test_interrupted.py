"""Ctrl-C and SIGTERM, once or twice, at every stage of ``detect`` and ``serve``: files are complete, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.media import count_frames, write_video

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends SIGINT, which Windows lacks")

ROOT = Path(__file__).parents[2]
COUNT = 40
# A program that runs a verb and sends a signal to itself at given stages.
CODE = """
import os, signal, sys
sys.path.insert(0, {root!r})

def reach(stage):
    if stage in {stages!r}:
        os.kill(os.getpid(), {number:d})

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            reach("importing")

sys.meta_path.insert(0, Importing())

def prepare():
    import threading
    from tests.stand_in import StandIn, contract
    from retina_edge.detector import Detector
    from retina_edge.pipeline.pipeline import Pipeline
    from retina_edge.sinks.video_sink import VideoSink

    stopped = threading.Event()

    class Executor(StandIn):
        def infer(self, images):
            stage = {{0: "first batch", 20: "running"}}.get(len(self.calls))
            reach(stage)
            if stage in {stages!r}:
                assert stopped.wait(20)
            return super().infer(images)

    def ask_to_stop(self):
        stop(self)
        stopped.set()

    def load(_path, **_options):
        reach("loading")
        return Detector(Executor(contract()))

    def end(self, *error):
        reach("ending")
        return leave(self, *error)

    stop, leave = Pipeline.stop, VideoSink.__exit__
    Detector.load, Pipeline.stop, VideoSink.__exit__ = load, ask_to_stop, end

from retina_edge.__main__ import main
if "importing" not in {stages!r}:
    prepare()
sys.exit(main({arguments!r}))
"""
FIRST_STAGES, MESSAGE = ("importing", "loading"), "interrupted\n"
INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    ("verb", "stages", "number", "code"),
    [
        *((verb, stage, INT, 130) for verb in ("detect", "serve") for stage in FIRST_STAGES),
        ("serve", "loading", TERM, -TERM),  # the signal ends the process, because no file is open yet
        *(("detect", stage, INT, 130) for stage in ("first batch", "ending")),
        ("detect", "running", TERM, 130),
        *(("serve", stage, TERM, 0) for stage in ("first batch", "ending")),
        ("serve", "running", INT, 130),
        ("detect", "running, ending", INT, 130),
        ("serve", "running, ending", TERM, 130),
    ],
)
def test_a_signal_at_any_stage_leaves_complete_files(
    tmp_path: Path, verb: str, stages: str, number: signal.Signals, code: int
) -> None:
    video, saved, lines = write_video(tmp_path / "v.mp4", count=COUNT), tmp_path / "o.mp4", tmp_path / "o.jsonl"
    arguments = [verb, "m.onnx", str(video), "--batch", "1", "--save", str(saved), "--json", str(lines)]
    arguments += ["--port", "0"] if verb == "serve" else []
    script = CODE.format(root=str(ROOT), stages=stages.split(", "), number=number, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if stages in FIRST_STAGES:
        assert done.stderr == (MESSAGE if number == INT else "")
        assert not saved.exists()
        assert not lines.exists()
        return
    frames = [json.loads(line)["frame"] for line in lines.read_text().splitlines()]
    if stages != "running, ending":
        assert done.stderr == (MESSAGE if code == 130 else "")
        assert frames == list(range(len(frames)))
        assert len(frames) == COUNT if stages == "ending" else 0 < len(frames) < COUNT
        assert count_frames(saved)[0] == len(frames)
    elif saved.exists():  # after the second signal the video may be missing, but it is never incomplete
        assert count_frames(saved)[0] > 20
