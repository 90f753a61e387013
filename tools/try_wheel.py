"""Installs the wheel of a folder outside the tree and runs it there: what a user of the package gets.

The sdist is unpacked and a wheel is built from it first, since a wheel built from the tree can hold
files that the sdist lost.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path


def main(folder: Path) -> None:
    """Build a wheel from the sdist in `folder`, install it in a new environment, run it elsewhere."""
    (sdist,) = folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
              "--wheel-dir", str(place), str(sdist.resolve())], place)  # fmt: skip
        (wheel,) = place.glob("*.whl")
        python = _environment(place / "env")
        _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], place)
        tool = str(python.parent / "pdp-export")
        _run([tool, "doctor"], place)
        _run([tool, "init", "--output", "starter"], place)
        _run([tool, "prune-and-convert", "--recipe", "starter/recipe.yaml", "--output", "run", "--dry-run"], place)
        where = _run([str(python), "-c", "import pdp_export.converters as c; print(c.__file__)"], place)
        if str(place) not in where:
            sys.exit(f"the converters were imported from the tree, not from the wheel: {where}")


def _environment(folder: Path) -> Path:
    """Return the python of a new environment that sees our installed dependencies, but not our package."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    own = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    outer = _run([sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    # A plain path line: unlike site.addsitedir it does not process the editable install's .pth file.
    (Path(own) / "dependencies.pth").write_text(outer + "\n", encoding="utf-8")
    return python


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
