"""The wheel: studies and validation suite travel inside the library, and site-packages gets one name.

`experiments/` and `validation/` are packages of a clone, run as `python -m experiments.NAME`. A wheel holds them, file
for file, in `mlx_interp/_studies/`, where `mlx-interp run` and `mlx-interp validate` find them (see
`mlx_interp/studies.py`).
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STUDIES = ("experiments", "validation")


class WithStudies(build_py):
    """The library's files, then the studies'. An editable install finds them where they are."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for folder in STUDIES:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    target = Path(self.build_lib, "mlx_interp", "_studies", path)
                    self.mkpath(str(target.parent))
                    self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": WithStudies})
