"""What an integration says whose package is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "package", "extra"), [("openfeature", "openfeature", "openfeature"), ("limits_storage", "limits", "limits")]
)
def test_without_its_package_an_integration_names_the_extra(module: str, package: str, extra: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; import palaver.integrations.{module}"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    last = [line for line in ran.stderr.splitlines() if line.startswith("palaver.errors.")]
    assert [f"palaver.errors.ConfigError: palaver.integrations.{module} needs the package {package}."] == [
        line.partition(" Install")[0] for line in last
    ]
    assert f'pip install "palaver[{extra}]"' in ran.stderr
