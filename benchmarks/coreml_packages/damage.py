"""Damaged packages: each must be refused, or its weights or outputs must be seen to differ; none may crash."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.coreml_packages.packages import feed, write
from benchmarks.coreml_packages.subjects import program
from pdp_export.errors import PdpExportError
from pdp_export.pipeline.weights import program_weights
from pdp_export.results import Verdict
from pdp_export.runtimes import coreml_package
from pdp_export.validation.weight_check import check_stored_weights

FILES = (
    "Manifest.json",
    "Data/com.apple.CoreML/model.mlmodel",
    "Data/com.apple.CoreML/weights/weight.bin",
)


def measure(count: int = 300, seed: int = 0) -> dict[str, Any]:
    """Mutate `count` copies of one sparse, palettized package and count what is found."""
    random = Random(seed)
    subject, inputs = program("resnet_small", 0.75)
    expected_weights = program_weights(subject)
    found: Counter[str] = Counter()
    crashes = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mlpackage"
        request, _ = write(subject, path, encoding="palette4")
        clean = coreml_package.open_session(path).run(feed(request, inputs))[request.outputs[0]]
        for number in range(count):
            copy = Path(folder) / "copy.mlpackage"
            shutil.copytree(path, copy)
            what = _damage(copy, random)
            verdict = _judge(copy, request, inputs, expected_weights, clean)
            found[verdict.partition(":")[0]] += 1
            if verdict.startswith("crash"):
                crashes.append(f"{number}: {what}: {verdict}")
            shutil.rmtree(copy)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"packages": count, "found": dict(found), "crashes": crashes, "peak_mib": peak // 1024}


def _damage(package: Path, random: Random) -> str:
    """Change, cut or swap bytes of one file; bytes that mean nothing (names, padding) are hit as well."""
    file = package / random.choices(FILES, weights=(1, 3, 6))[0]
    data = bytearray(file.read_bytes())
    kind = random.choice(("bit", "byte", "cut", "run", "swap"))
    position = random.randrange(len(data))
    if kind == "bit":
        data[position] ^= 1 << random.randrange(8)
    elif kind == "byte":
        data[position] = (data[position] + random.randrange(1, 256)) % 256
    elif kind == "cut":
        del data[position:]
    elif kind == "run":
        length = random.randrange(1, 64)
        data[position : position + length] = random.randbytes(len(data[position : position + length]))
    else:
        other = random.randrange(len(data))
        data[position], data[other] = data[other], data[position]
    same = bytes(data) == file.read_bytes()
    file.write_bytes(bytes(data))
    return f"{kind} at {position} of {file.name}" + (" (no change)" if same else "")


def _judge(path: Path, request: Any, inputs: Any, weights: Any, clean: Any) -> str:
    try:
        check = check_stored_weights(weights, coreml_package.weights(path))
        if check.verdict is not Verdict.PASS:
            return "weights differ"
        session = coreml_package.open_session(path)
        got = session.run(feed(request, inputs))
    except PdpExportError:
        return "refused"
    except Exception as error:
        return f"crash: {type(error).__name__}: {error}"
    output = got.get(request.outputs[0])
    if output is None or output.shape != clean.shape:
        return "outputs differ"
    return "identical" if np.array_equal(output, clean) else "outputs differ"
