"""One function in a child process: whatever it does, this process lives on with a message."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pdp_export import isolation
from pdp_export.errors import CaptureError, ChildCrashedError, PdpExportError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _functions_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def _call(name: str, what: str = "the job", **rest: object) -> object:
    payload = rest.pop("payload", {})
    return isolation.call(f"isolation_targets:{name}", payload, what=what, **rest)


def _crash(name: str, **rest: object) -> ChildCrashedError:
    with pytest.raises(ChildCrashedError) as caught:
        _call(name, **rest)
    assert caught.value.exit_code == 4
    return caught.value


def _gone(process: int) -> bool:
    """Whether a process has ended (a zombie has), waiting up to ten seconds for it."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_payload_and_result_travel_unchanged():
    """Pins text, nesting or numbers that are lost between parent and child."""
    payload = {"text": "ö\n'\"", "list": [1, 2.5, None, True], "nested": {"a": {"b": []}}, "long": "x" * 300_000}
    assert _call("echo", payload=payload) == payload


def test_nan_and_infinity_come_back():
    """Pins measurements that fail only because they are not finite."""
    nan, infinity, tenth = _call("numbers")
    assert math.isnan(nan)
    assert infinity == math.inf
    assert tenth == 0.1


def test_an_error_of_ours_keeps_class_text_place_and_hint():
    """Pins a refusal of the child that arrives as a crash."""
    with pytest.raises(CaptureError) as caught:
        _call("refuse", payload={"where": "net.py:3"})
    assert (caught.value.what, caught.value.where, caught.value.hint) == ("cannot capture ö", "net.py:3", "try another")


def test_an_error_class_that_only_the_child_knows_is_still_a_refusal():
    """Pins an AttributeError about the error class in place of the refusal."""
    with pytest.raises(PdpExportError, match="own refusal"):
        _call("refuse_in_a_subclass")


def test_an_ordinary_error_is_told_by_its_last_line():
    """Pins a crash report that hides what the library said."""
    assert "the job ended with exit code 1: ValueError: an ordinary mistake" in _crash("fail").what


@pytest.mark.parametrize(("name", "how"), [("read_null_pointer", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_native_crash_is_named_by_its_signal(name: str, how: str):
    """Pins our own death, or a number instead of a name, when native code crashes."""
    assert f"the job ended by {how}" in _crash(name).what


@pytest.mark.parametrize("code", [0, 3])
def test_leaving_without_a_result_is_a_failure_even_with_code_0(code: int):
    """Pins a converter that calls exit(0) on failure and is believed."""
    assert f"exit code {code}" in _crash("leave", payload={"code": code}).what


def test_a_child_that_dies_while_we_write_to_it_is_a_crash():
    """Pins a BrokenPipeError with a payload larger than the pipe."""
    assert "exit code 7" in _crash("close_stdin_at_once", payload={"long": "x" * 2_000_000}).what


def test_a_result_that_is_no_json_is_a_failure():
    """Pins a half-written result file taken for a result."""
    assert "not JSON serializable" in _crash("not_json").what


def test_an_unknown_function_is_a_failure():
    """Pins a reference that is wrong after a rename, reported as success."""
    assert "no_such" in _crash("no_such").what


def test_a_hang_ends_at_the_time_limit_with_everything_it_started(tmp_path: Path):
    """Pins a converter that hangs for ever, or whose own children go on eating the processor."""
    started = tmp_path / "started"
    begin = time.monotonic()
    error = _crash("hang", payload={"started": str(started)}, timeout_s=2.0)
    assert time.monotonic() - begin < 20
    assert "did not finish within 2 s" in error.what
    assert all(_gone(int(process)) for process in started.read_text(encoding="utf-8").split())


def test_the_memory_limit_holds():
    """Pins a damaged file that claims terabytes and takes the machine down."""
    error = _crash("eat_memory", memory_bytes=1 << 30)
    assert "more than 1024 MiB of memory" in error.what


def test_noise_goes_to_the_log_and_never_to_our_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Pins a library's banner in the middle of our JSON, written past Python's sys.stdout."""
    log = tmp_path / "log.txt"
    log.write_text("earlier\n", encoding="utf-8")
    assert _call("shout", what="shouting", log=log) == "quiet result"
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "")
    text = log.read_text(encoding="utf-8")
    assert text.startswith("earlier\n--- shouting\n")
    assert all(f"{kind} noise" in text for kind in ("python", "descriptor", "error", "c"))


def test_the_log_tells_why_a_child_crashed(tmp_path: Path):
    """Pins a traceback that is thrown away with the child's temporary folder."""
    _crash("fail", log=tmp_path / "log.txt")
    assert "Traceback" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_file_in_the_working_directory_does_not_shadow_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pins a user's own json.py or onnx.py that runs inside the child and breaks every conversion."""
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert _call("echo", payload={"a": 1}) == {"a": 1}


def test_nothing_stays_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pins a disk that fills up with results of children."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _call("echo")
    _crash("fail")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the child's death with its parent is arranged by Linux")
def test_the_child_dies_with_its_parent(tmp_path: Path):
    """Pins a converter that runs on for minutes after kill -9 of the tool."""
    started = tmp_path / "started"
    code = (
        "from pdp_export import isolation; "
        f"isolation.call('isolation_targets:hang_alone', {{'started': {str(started)!r}}}, what='x')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(300):
        if started.exists() and started.read_text(encoding="utf-8"):
            break
        time.sleep(0.1)
    child = int(started.read_text(encoding="utf-8"))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert _gone(child)


def test_ctrl_c_stops_the_child(tmp_path: Path):
    """Pins an orphan that works on after Ctrl-C."""
    started = tmp_path / "started"
    code = (
        "from pdp_export import isolation\n"
        "try:\n"
        f"    isolation.call('isolation_targets:hang_alone', {{'started': {str(started)!r}}}, what='x')\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(5)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(300):
        if started.exists() and started.read_text(encoding="utf-8"):
            break
        time.sleep(0.1)
    os.kill(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=20) == 5
    assert _gone(int(started.read_text(encoding="utf-8")))
