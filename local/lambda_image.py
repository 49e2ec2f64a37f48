"""A stand-in for AWS's Python image of Lambda, where no registry can be reached: `python3.13 -m local.lambda_image`.

`sam local` wants `public.ecr.aws/lambda/python:3.13-…`. Wherever that can be pulled, pull it and leave this alone.
Here an image of the same name is made of this interpreter, the C library it runs on, a shell for SAM's own build steps
and AWS's runtime interface client, in the folders where Lambda has them. It is this machine's Linux, not Amazon Linux
2023, and it brings no boto3 of its own: the layer does.
"""

import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from local.containers import NoDockerError, docker_host

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "local" / "requirements" / "lambda.txt"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
# SAM adds the emulator of the runtime interface and the layers by `RUN mv`, `cp`, `rm` and `chmod`.
TOOLS = ("sh", "mv", "cp", "rm", "chmod", "mkdir", "ls", "cat")
# What wheels for Linux may expect to be there (PEP 600), and what the C library itself loads while running.
EXPECTED = (
    "libanl.so.1",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libstdc++.so.6",
    "libutil.so.1",
    "libz.so.1",
)
LEFT_OUT = frozenset({"__pycache__", "ensurepip", "idlelib", "site-packages", "test", "tests", "tkinter", "turtledemo"})
FOLDERS = ("dev", "opt", "proc", "root", "sys", "tmp", "var/lang", "var/rapid", "var/runtime", "var/task")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ENVIRONMENT = {
    "PATH": "/var/lang/bin:/usr/bin:/bin:/opt/bin",
    "LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/task:/var/task/lib:/opt/lib",
    "LANG": "C.UTF-8",
    "TZ": ":UTC",
    "LAMBDA_TASK_ROOT": "/var/task",
    "LAMBDA_RUNTIME_DIR": "/var/runtime",
    "SSL_CERT_FILE": str(CERTIFICATES),
}
BOOTSTRAP = f"""#!/bin/sh
export AWS_EXECUTION_ENV=AWS_Lambda_python{VERSION}
export PYTHONPATH=/var/task:/opt/python/lib/python{VERSION}/site-packages:/opt/python:/var/runtime
exec /var/lang/bin/python{VERSION} -m awslambdaric "$_HANDLER"
"""


def image_name(machine: str) -> str:
    """What `sam local` calls the image on this kind of machine. KeyError for one that Lambda does not know."""
    return f"public.ecr.aws/lambda/python:{VERSION}-{MACHINES[machine.lower()]}"


def linked(listing: str) -> list[str]:
    """The libraries' paths in what `ldd` printed, the loader's own included."""
    return re.findall(r"(/[^\s()]+\.so[^\s()]*)", listing)


def _libraries(files: Iterable[Path]) -> set[Path]:
    """Every shared library that these files need, by the paths they are looked for."""
    command = ["ldd", *map(str, files)]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 # files found here
    # ldd names each file it is asked about, followed by a colon: those are no libraries of anybody.
    asked = {f"{file}:" for file in files}
    found = {Path(path) for path in linked(listing) if path not in asked and not path.endswith(":")}
    places = {path.parent for path in found}
    return found | {place / name for place in places for name in EXPECTED if (place / name).exists()}


def _interpreter(prefix: Path) -> Iterator[tuple[Path, str]]:
    """The interpreter and its library: (file here, path below /var/lang)."""
    yield Path(sys.executable).resolve(), f"bin/python{VERSION}"
    library = prefix / "lib"
    for file in library.glob("libpython*.so*"):
        yield file, f"lib/{file.name}"
    for folder, folders, files in os.walk(library / f"python{VERSION}"):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith("config-"))
        for name in sorted(files):
            file = Path(folder) / name
            if file.suffix != ".a" and not name.startswith("_tkinter"):
                yield file, str(file.relative_to(prefix))


def _install_runtime(folder: Path) -> None:
    """AWS's runtime interface client, as locked."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    command += ["--require-hashes", "--target", str(folder), "-r", str(REQUIREMENTS)]
    subprocess.run(command, check=True)  # noqa: S603 # pip, with our own lock file


def _add_text(archive: tarfile.TarFile, path: str, text: str, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(text.encode()), mode
    archive.addfile(entry, io.BytesIO(text.encode()))


def _add_file(archive: tarfile.TarFile, file: Path, path: str) -> None:
    """A file's content, wherever its links lead."""
    archive.add(file.resolve(), path.lstrip("/"), recursive=False)


def write_archive(target: io.BufferedIOBase, runtime: Path) -> None:
    """The whole file system of the image as a tar. `runtime` holds what `_install_runtime` made."""
    prefix = Path(sys.base_prefix).resolve()
    interpreter = list(_interpreter(prefix))
    tools = {name: Path(shutil.which(name) or f"/bin/{name}").resolve() for name in TOOLS}
    compiled = [file for file, _ in interpreter if ".so" in file.suffixes]
    needing = [Path(sys.executable).resolve(), *compiled, *tools.values(), *runtime.rglob("*.so")]
    with tarfile.open(fileobj=target, mode="w|") as archive:
        for folder in FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for file, path in interpreter:
            _add_file(archive, file, f"var/lang/{path}")
        for name, file in tools.items():
            _add_file(archive, file, f"bin/{name}")
        for library in sorted(_libraries(needing)):
            if not library.is_relative_to(prefix):
                _add_file(archive, library, str(library))
        if CERTIFICATES.exists():
            _add_file(archive, CERTIFICATES, str(CERTIFICATES))
        for file in sorted(runtime.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                _add_file(archive, file, f"var/runtime/{file.relative_to(runtime)}")
        _add_text(archive, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)
        _add_text(archive, "etc/nsswitch.conf", "hosts: files dns\n", 0o644)
        _add_text(archive, "var/runtime/bootstrap", BOOTSTRAP, 0o755)


def main() -> int:
    """Make the image. 1 when it cannot be made here, with the reason on standard error."""
    if sys.platform != "linux" or VERSION != "3.13":
        print("this needs Linux and Python 3.13, as the functions do: $(local/setup.sh python) -m …", file=sys.stderr)
        return 1
    try:
        docker_host()
    except NoDockerError as missing:
        print(f"cannot make the image: {missing}", file=sys.stderr)
        return 1
    name = image_name(platform.machine())
    changes = [f"ENV {key}={value}" for key, value in ENVIRONMENT.items()] + ["WORKDIR /var/task"]
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.tar"
        runtime = Path(folder) / "runtime"
        _install_runtime(runtime)
        with image.open("wb") as file:
            write_archive(file, runtime)
        command = ["docker", "import", *(part for change in changes for part in ("-c", change)), str(image), name]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:  # noqa: S603 # made above
            return 1
    print(f"made {name} of {platform.platform()} with Python {platform.python_version()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
