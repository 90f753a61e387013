"""MNN's script and `MNN.tools` install a package with pip and call a server: neither is ever reached."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from pdp_export.converters import mnn_export

ROOT = Path(mnn_export.__file__).resolve().parents[1]


def test_telemetry_of_mnn_is_never_reached() -> None:
    """The `mnnconvert` script and `MNN.tools` install a package with pip and call a server."""
    sources = [*ROOT.glob("converters/*.py"), *ROOT.glob("pdp_export/**/*.py")]
    assert ROOT / "converters" / "mnn_export.py" in sources
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("MNN.tools") for name in names), source
            if isinstance(node, ast.Call) and "subprocess" in ast.unparse(node.func):
                assert "mnnconvert" not in ast.unparse(node), source


def test_conversion_starts_no_process_and_keeps_stdout_clean(tmp_path: Path) -> None:
    """MNN prints on file descriptor 1, and its script would start pip; stdout carries results only."""
    code = f"""
import sys, json
from pathlib import Path
events = []
sys.addaudithook(lambda name, args: events.append([name, str(args[0])[:80]])
    if name in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.system", "socket.connect",
                "socket.getaddrinfo") else None)
import torch
from pdp_export.converters import mnn_export
assert "MNN" not in sys.modules and "_tools" not in sys.modules
from pdp_export.results import TensorSpec
from pdp_export.runtimes import mnn_runtime
from pdp_export.targets import ConvertRequest
net, x = torch.nn.Conv2d(3, 4, 1).eval(), torch.randn(1, 3, 5, 5)
program = torch.export.export(net, (x,)).run_decompositions({{}})
request = ConvertRequest(inputs=(TensorSpec(name="x", shape=(1, 3, 5, 5)),), outputs=("y",))
started = len(events)
path = Path({str(tmp_path / "net.mnn")!r})
mnn_export.convert(program, path, request)
session = mnn_runtime.open_session(path)
session.run({{"x": x.numpy()}})
assert mnn_runtime.version()
assert events[started:] == [], events[started:]
assert not [name for name in sys.modules if name.startswith("MNN.tools")]
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout == b""
    assert [item.name for item in tmp_path.iterdir()] == ["net.mnn"]


def test_importing_the_converter_is_cheap() -> None:
    """`--help` and `--dry-run` read TARGET and must not load torch or MNN."""
    code = "import sys, pdp_export.converters.mnn_export; print({'torch', 'onnx', 'MNN', '_tools'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
