"""What a user installs: the wheel built through the sdist, and the editable install."""

import json
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import gpunet

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "cupy",
    "graphviz",
    "matplotlib",
    "onnx",
    "PIL",
    "pooch",
    "pycocotools",
    "requests",
    "scipy",
    "sklearn",
    "torch",
)

LOAD_EVERY_KERNEL = """
import json, gpunet
from gpunet.nvrtc import source
print(json.dumps({
    "package": gpunet.__file__,
    "folder": str(source.kernels_folder()),
    "sources": {file: source.read(file) for file in source.files()},
}))
"""


def run(*command, cwd):
    """The standard output; a failure shows everything that was printed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def kernel_files(*suffixes):
    return {path.name for path in (ROOT / "kernels").iterdir() if path.suffix in suffixes}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel), the wheel built from the unpacked sdist, as PyPI's users would."""
    pytest.importorskip("build", reason="build is not installed")
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture
def fresh(tmp_path):
    """A new environment outside the checkout, whose dependencies (not gpunet: its own folder stands first) are ours."""
    venv.create(tmp_path / "env", with_pip=True, symlinks=sys.platform != "win32")
    python = tmp_path / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    Path(own, "dependencies.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
    return python


def pip_install(python, *arguments):
    run(python, "-I", "-m", "pip", "install", "--no-index", "--no-deps", *arguments, cwd=python.parent)


def load_every_kernel(python):
    """The report of an interpreter that sees neither the working folder nor PYTHONPATH."""
    report = json.loads(run(python, "-I", "-c", LOAD_EVERY_KERNEL, cwd=python.parent))
    assert set(report["sources"]) == kernel_files(".cu")
    assert report["sources"], "there are no kernels"
    for file, text in report["sources"].items():
        assert "__global__" in text, file
        assert '#include "' not in text, file
    return Path(report["package"]), Path(report["folder"])


@pytest.mark.slow
def test_wheel_built_through_the_sdist_loads_every_kernel(built, fresh):
    pip_install(fresh, built[1])
    package, folder = load_every_kernel(fresh)
    environment = fresh.parents[1]
    assert package.is_relative_to(environment)
    assert folder == package.parent / "_kernels"
    assert not folder.is_relative_to(ROOT)


@pytest.mark.slow
def test_editable_install_loads_every_kernel_of_the_checkout(fresh):
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    pytest.importorskip("editables", reason="editables, which hatchling's editable builds need, is not installed")
    pip_install(fresh, "--no-build-isolation", "--editable", ROOT)
    package, folder = load_every_kernel(fresh)
    assert package == ROOT / "gpunet" / "__init__.py"
    assert folder == ROOT / "kernels"


@pytest.mark.slow
def test_wheel_holds_the_package_and_the_kernels_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    kernels = {name.removeprefix("gpunet/_kernels/") for name in names if name.startswith("gpunet/_kernels/")}
    assert {name for name in kernels if name.endswith((".cu", ".cuh"))} == kernel_files(".cu", ".cuh")
    assert not {name for name in kernels if name.endswith(".py")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gpunet").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert "gpunet/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gpunet"}  # the package and its .dist-info
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_wheel_and_sdist_have_the_version_of_the_package(built):
    sdist, wheel = built
    assert sdist.name == f"gpunet-{gpunet.__version__}.tar.gz"
    assert wheel.name.split("-")[:2] == ["gpunet", gpunet.__version__]


@pytest.mark.slow
def test_sdist_holds_kernels_and_tests(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {f"kernels/{file}" for file in kernel_files(".cu", ".cuh")} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "gpunet/py.typed", "tests/test_packaging.py"} <= names


def test_import_is_fast_and_loads_nothing_heavy(tmp_path):
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); start = time.process_time(); import gpunet\n"
        f"took = time.process_time() - start; print(took, *[name for name in {HEAVY} if name in sys.modules])"
    )
    reports = [run(sys.executable, "-I", "-c", code, cwd=tmp_path).split() for _ in range(5)]
    assert not any(loaded for _, *loaded in reports), reports
    assert min(float(took) for took, *_ in reports) < 0.4  # of the processor: NumPy alone takes half of it


def test_metadata_readme_and_type_checker_name_the_same_pythons():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, prefix = settings["project"], "Programming Language :: Python :: 3."
    minors = [int(line.removeprefix(prefix)) for line in project["classifiers"] if line.startswith(prefix)]
    first, last = minors[0], minors[-1]
    assert minors == list(range(first, last + 1))
    assert project["requires-python"] == f">=3.{first},<3.{last + 1}"
    assert settings["tool"]["mypy"]["python_version"] == f"3.{first}"
    assert f"\nPython 3.{first} to 3.{last}, in a checkout" in (ROOT / "README.md").read_text(encoding="utf-8")
