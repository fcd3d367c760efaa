"""`python -m infra.package` builds the Lambda artifacts and the CloudFormation template, offline.

An artifact has the function's locked requirements as arm64 wheels, functions/common and the function's own folder.
Builds are reproducible: equal sources give equal bytes, so an unchanged hash means that no deployment is needed. Then
osls turns serverless.yml into CloudFormation and cfn-lint checks it. The limits are checked here, before a deployment
can fail at them. Arguments are passed to osls: `--stage prod`, `--param="name=value"`.
"""

import filecmp
import fnmatch
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build"
TEMPLATE = ROOT / ".serverless" / "cloudformation-template-update-stack.json"
FIREWALL = ROOT / "infra" / "firewall.yml"
OSLS = ROOT / "infra" / "package" / "node_modules" / ".bin" / "osls"
TOOLS = Path(sys.executable).parent  # uv, cfn-lint and node are installed beside the Python that runs this

# Lambda's runtime and architecture. serverless.yml has the same; `check_template` compares them.
PYTHON = "3.13"
RUNTIME = "python3.13"
CACHE_TAG = "cpython-313"
ARCHITECTURE = "arm64"
PLATFORM = "aarch64-manylinux2014"  # the oldest glibc that wheels are built for; Lambda's is newer
ELF_MACHINE = 183  # EM_AARCH64 in an ELF header
TASK_ROOT = "/var/task"  # where Lambda unpacks the artifact; bytecode contains these paths

MEGABYTE = 1_000_000
# Lambda allows 250 MiB with all layers (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html). Ours
# is lower, because Lambda loads what is larger more slowly, and so that a large new dependency is noticed.
UNZIPPED_LIMIT = 100 * MEGABYTE
ZIP_LIMIT = 50 * MEGABYTE  # the console and the Lambda API accept no larger direct upload

COMPRESSION = int(os.environ.get("PACKAGE_COMPRESSION", "6"))  # zlib's level; tests build with 1, in half the time

WITHOUT_BYTECODE = "PACKAGE_WITHOUT_BYTECODE"  # a variable: build for a test, on a machine without Lambda's Python
NO_COMPILER = (
    f"Python {PYTHON} is needed for the bytecode, without which a cold start takes twice as long. "
    f"`uv python install {PYTHON}` or `pyenv install {PYTHON}` installs it beside yours"
)

STEP_TIMEOUT = 300  # seconds per program; the first download of every wheel takes about a minute


@dataclass(frozen=True, slots=True)
class Function:
    """The content of one artifact."""

    name: str
    requirements: str
    sources: tuple[str, ...]


SERVED = {"account": ("docs/openapi.json",)}  # files beside the code
FUNCTIONS = tuple(
    Function(name, f"requirements/{name}.txt", ("functions/common", f"functions/{name}", *SERVED.get(name, ())))
    for name in ("chat", "keys", "checkout", "account", "webhooks", "maintenance")
)

# Files of the wheels that are never imported on Lambda. Licences stay, because they must accompany the code; METADATA
# and entry_points.txt stay for importlib.metadata.
PRUNED_FOLDERS = ("tests", "test", "__pycache__")
# FastAPI imports pydantic.v1, for 60 ms, to refuse its models in the signature of a route, and works without it.
PRUNED_PACKAGES = ("pydantic/v1",)
PRUNED_FILES = (
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "*.pxi",
    "*.c",
    "*.h",
    "py.typed",
    ".lock",
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/WHEEL",
    "*.dist-info/uv_cache.json",
    "*.dist-info/direct_url.json",
)
SKIPPED_SOURCES = ("tests", "test_*.py", "conftest.py", "__pycache__", "*.pyc", ".*")


class PackageError(Exception):
    """One sentence that states what is wrong with the artifact or the template."""


@dataclass(frozen=True, slots=True)
class Artifact:
    function: str
    packages: int
    unzipped: int  # bytes
    path: Path

    @property
    def zipped(self) -> int:
        return self.path.stat().st_size

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def main(osls_arguments: list[str]) -> int:
    started = time.monotonic()
    try:
        compiler = find_compiler()
        if compiler is None:
            if not os.environ.get(WITHOUT_BYTECODE):
                raise PackageError(NO_COMPILER)
            print(f"no Python {PYTHON} on this machine: bytecode is left out, so every cold start compiles the code")
        artifacts: list[Artifact] = []
        for function in FUNCTIONS:
            artifacts.append(build(function, compiler, [BUILD / built.function for built in artifacts]))
        package(osls_arguments)
        lint()
        check_template(artifacts)
    except PackageError as error:
        print(f"make package: {error}", file=sys.stderr)
        return 1
    print(table(artifacts))
    print(f"packaged in {time.monotonic() - started:.0f} s: {BUILD.name}/*.zip, {TEMPLATE.relative_to(ROOT)}")
    return 0


# The artifact, step by step


def build(function: Function, compiler: Path | None, built: Sequence[Path] = ()) -> Artifact:
    """Builds .build/<function>/ from scratch and zips it. `built` are folders of this run with reusable bytecode."""
    folder = BUILD / function.name
    archive = BUILD / f"{function.name}.zip"
    shutil.rmtree(folder, ignore_errors=True)
    archive.unlink(missing_ok=True)  # a failed build must not leave an old artifact to be deployed
    folder.mkdir(parents=True)
    print(f"{function.name}: installing {function.requirements} for Python {PYTHON} on {ARCHITECTURE}", flush=True)
    install(function, folder)
    prune(folder)
    copy_sources(function, folder)
    check_libraries(folder)
    if compiler is not None:
        print(f"{function.name}: compiling bytecode", flush=True)
        compile_bytecode(folder, compiler, built)
    print(f"{function.name}: writing {archive.relative_to(ROOT)}", flush=True)
    artifact = Artifact(
        function=function.name,
        packages=sum(1 for _ in folder.glob("*.dist-info")),
        unzipped=write_zip(folder, archive),
        path=archive,
    )
    check_size(artifact)
    return artifact


def install(function: Function, folder: Path, platform: str = PLATFORM) -> None:
    requirements = ROOT / function.requirements
    if not requirements.is_file():
        raise PackageError(f"{function.requirements} is missing; `make lock` writes it")
    run(
        [
            str(TOOLS / "uv"), "pip", "install", "--quiet", "--python", sys.executable,
            "--python-version", PYTHON, "--python-platform", platform, "--only-binary", ":all:",
            "--require-hashes", "--no-deps",  # the lock file is complete, so nothing is resolved
            "--link-mode", "copy",  # with links, a later step would write into uv's cache
            "--target", str(folder), "--requirements", str(requirements),
        ],
        f"uv could not install {function.requirements} as wheels for {platform}",
    )  # fmt: skip


def prune(folder: Path) -> None:
    shutil.rmtree(folder / "bin", ignore_errors=True)  # the wheels' commands
    for package in PRUNED_PACKAGES:
        shutil.rmtree(folder / package, ignore_errors=True)
    for path in sorted(folder.rglob("*"), reverse=True):  # contents before their folder
        if path.is_dir() and path.name in PRUNED_FOLDERS:
            shutil.rmtree(path)
        elif path.is_file() and any(path.match(pattern) for pattern in PRUNED_FILES):
            path.unlink()


def copy_sources(function: Function, folder: Path) -> None:
    for source in function.sources:
        if not (ROOT / source).exists():
            raise PackageError(f"{source} is missing, and {function.name} needs it")
        if (ROOT / source).is_file():
            (folder / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / source, folder / source)
            continue
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns(*SKIPPED_SOURCES))
    namespace = ROOT / "functions" / "__init__.py"
    if namespace.is_file():
        shutil.copy2(namespace, folder / "functions")


def check_libraries(folder: Path) -> None:
    """Checks that native libraries are for Lambda's processor and Python extensions for its version."""
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        with path.open("rb") as file:
            header = file.read(20)
        name = path.relative_to(folder)
        is_elf = header.startswith(b"\x7fELF")
        if is_elf and int.from_bytes(header[18:20], "little") != ELF_MACHINE:
            raise PackageError(f"{name} was built for another processor than Lambda's {ARCHITECTURE}")
        if not is_elf and (".so" in path.suffixes or path.suffix in {".dylib", ".pyd", ".dll"}):
            raise PackageError(f"{name} was built for another system than Lambda's Linux")
        version = PYTHON.replace(".", "")
        if fnmatch.fnmatch(path.name, "*.cpython-*.so") and f".cpython-{version}-" not in path.name:
            raise PackageError(f"{name} was built for another Python than Lambda's {PYTHON}")


def find_compiler() -> Path | None:
    """A released CPython of Lambda's minor version, which ignores bytecode of others. None where there is none."""
    found = subprocess.run(
        [str(TOOLS / "uv"), "python", "find", "--quiet", "--system", "--no-python-downloads", PYTHON],
        capture_output=True,
        text=True,
        timeout=STEP_TIMEOUT,
        check=False,
    )
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))  # uv finds only pyenv's active versions
    candidates = [Path(sys.executable), Path(found.stdout.strip()), *pyenv.glob(f"versions/{PYTHON}.*/bin/python")]
    question = "import sys; print(sys.implementation.cache_tag, sys.version_info.releaselevel)"
    for python in (candidate for candidate in candidates if candidate.is_file()):
        answer = subprocess.run(
            [str(python), "-I", "-c", question], capture_output=True, text=True, timeout=STEP_TIMEOUT, check=False
        )
        if answer.stdout.split() == [CACHE_TAG, "final"]:
            return python
    return None


def compile_bytecode(folder: Path, compiler: Path, built: Sequence[Path]) -> None:
    """Halves a cold start. The hash is unchecked, because fixed times would make dated bytecode seem stale."""
    modules = (path.relative_to(folder) for path in sorted(folder.rglob("*.py")))
    listed = folder.with_suffix(".modules")
    listed.write_text("".join(f"{folder / module}\n" for module in modules if not copy_bytecode(module, folder, built)))
    run(
        [
            str(compiler), "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
            "-s", str(folder), "-p", TASK_ROOT, "-i", str(listed),
        ],
        f"Python {PYTHON} could not compile every module of {folder.name}",
    )  # fmt: skip


def copy_bytecode(module: Path, folder: Path, built: Sequence[Path]) -> bool:
    """Copies a module's bytecode from an artifact that has the same module. Most packages are in several artifacts."""
    bytecode = module.parent / "__pycache__" / f"{module.stem}.{CACHE_TAG}.pyc"
    for other in built:
        if (other / bytecode).exists() and filecmp.cmp(other / module, folder / module, shallow=False):
            (folder / bytecode).parent.mkdir(exist_ok=True)
            shutil.copyfile(other / bytecode, folder / bytecode)
            return True
    return False


def write_zip(folder: Path, archive: Path) -> int:
    """Returns the unzipped size in bytes. Fixed order, times and permissions make equal contents equal files."""
    total = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            if not path.is_file():
                continue
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix: otherwise unzip ignores the permissions below
            executable = path.suffix == ".sh" and path.stat().st_mode & stat.S_IXUSR
            entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = path.read_bytes()
            total += len(content)
            zipped.writestr(entry, content, compresslevel=COMPRESSION)
    return total


def check_size(artifact: Artifact) -> None:
    for kind, size, limit in (
        ("unzipped", artifact.unzipped, UNZIPPED_LIMIT),
        ("zipped", artifact.zipped, ZIP_LIMIT),
    ):
        if size > limit:
            raise PackageError(
                f"{artifact.function} is {size / MEGABYTE:.1f} MB {kind}, over the limit of {limit // MEGABYTE} MB"
            )


# The template


def package(arguments: list[str]) -> None:
    """Runs osls without credentials, and with a HOME in this checkout for its cache."""
    if not OSLS.exists():
        raise PackageError("osls is not installed: run `make package`, which installs it")
    print("osls: writing the CloudFormation template", flush=True)
    shutil.rmtree(TEMPLATE.parent, ignore_errors=True)
    home = BUILD / "home"
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SLS_"))}
    environment |= {
        "HOME": str(home),
        "PATH": f"{TOOLS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # osls is a script that finds node on PATH
        "AWS_EC2_METADATA_DISABLED": "true",
        "SLS_DEPRECATION_NOTIFICATION_MODE": "error",
        "SLS_SCHEMA_CACHE_BASE_DIR": str(home),
    }
    run([str(OSLS), "package", *arguments], "osls could not turn serverless.yml into a template", environment)


def lint() -> None:
    print("cfn-lint: checking the template", flush=True)
    run(
        # W3005: osls adds a redundant DependsOn to the reference to a function's role.
        [str(TOOLS / "cfn-lint"), "--ignore-checks", "W3005", "--template", str(TEMPLATE)],
        "cfn-lint found errors in the template built from serverless.yml",
    )
    run(
        [str(TOOLS / "cfn-lint"), "--regions", "us-east-1", "--template", str(FIREWALL)],
        "cfn-lint found errors in infra/firewall.yml",
    )


def check_template(artifacts: list[Artifact]) -> None:
    """Checks that the template and the artifacts have the same functions, runtime and handlers."""
    resources = json.loads(TEMPLATE.read_text())["Resources"].values()
    declared = {
        Path(resource["Properties"]["Code"]["S3Key"]).stem: resource["Properties"]
        for resource in resources
        if resource["Type"] == "AWS::Lambda::Function"
    }
    built = {artifact.function: artifact for artifact in artifacts}
    for name in sorted(declared.keys() ^ built.keys()):
        where, other = ("serverless.yml", "FUNCTIONS") if name in declared else ("FUNCTIONS", "serverless.yml")
        raise PackageError(f"{name} is in {where} but not in {other}")
    for name, properties in declared.items():
        if (properties["Runtime"], properties["Architectures"]) != (RUNTIME, [ARCHITECTURE]):
            raise PackageError(f"serverless.yml runs {name} on another runtime than {RUNTIME} for {ARCHITECTURE}")
        check_handler(properties["Handler"], built[name])


def check_handler(handler: str, artifact: Artifact) -> None:
    """Checks that the handler is in the artifact: an executable script, or `module.function`."""
    path = handler if handler.endswith(".sh") else handler.rpartition(".")[0].replace(".", "/") + ".py"
    with zipfile.ZipFile(artifact.path) as archive:
        if path not in archive.namelist():
            raise PackageError(f"{artifact.function}'s handler {handler} is not in its artifact")
        if path.endswith(".sh") and not archive.getinfo(path).external_attr >> 16 & stat.S_IXUSR:
            raise PackageError(f"{path} is not executable; run: chmod +x {path}")


def run(command: list[str], failure: str, environment: dict[str, str] | None = None) -> None:
    """Runs a program quietly. Where it fails, prints its output and raises PackageError with `failure`."""
    try:
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise PackageError(
            f"{Path(command[0]).name} is not installed: run `make package`, which installs it"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise PackageError(f"{failure} within {STEP_TIMEOUT} s") from error
    if result.returncode != 0:
        print(result.stdout.strip(), file=sys.stderr)
        raise PackageError(failure)


def table(artifacts: list[Artifact]) -> str:
    lines = [f"{'function':<14}{'packages':>8}{'unzipped MB':>13}{'zip MB':>8}  sha256"]
    lines += [
        f"{artifact.function:<14}{artifact.packages:>8}{artifact.unzipped / MEGABYTE:>13.1f}"
        f"{artifact.zipped / MEGABYTE:>8.1f}  {artifact.sha256[:12]}"
        for artifact in artifacts
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
