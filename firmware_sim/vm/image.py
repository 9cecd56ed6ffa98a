"""What the machine boots from: a Debian kernel, the modules that Bluetooth needs, and the packages this host lacks.

Rules of this file:

- Nothing is installed on the host: packages are downloaded with apt-get as the user who runs this, and unpacked into a
  folder that git ignores. They come from the archive that the host itself uses, with the checks that apt makes.
- What was built stays valid until apt offers another version, or this code builds it differently.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

GUEST = Path(__file__).with_name("guest.sh")

KERNELS = ("linux-image-6.12-amd64", "linux-image-amd64")
"""Packages that depend on a kernel; the first that apt offers is taken. Debian 12 has both. Its 6.1.192 corrupts a list
whenever a connection attempt fails, which ends bluetoothd (measured); Raspberry Pi OS has 6.12, too."""

LAYOUT = "3"
"""Raised when what is unpacked or packed here changes, so that an older build is not taken for this one."""

APT_MAX = 600.0
"""Seconds for one call of apt-get: the kernel is 70 MB."""

MODULES = (
    # The host's files: 9p over virtio, under an overlay that takes the writes.
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    # What SMP computes with. Without a random generator before it, `ecdh` is there and every pairing ends without a word.
    "sha512_generic",
    "ctr",
    "drbg",
    "ecdh_generic",
    "cmac",
    "ecb",
    "ccm",
    "aes_generic",
    # Bluetooth, and a controller that a program plays.
    "bluetooth",
    "hci_vhci",
)
"""In the order of loading; what they depend on is found by itself, and what the kernel has built in is passed over."""


class ImageError(Exception):
    """The machine cannot be built: what, why and what would help."""


@dataclass(frozen=True, slots=True)
class Image:
    """`release` as `uname -r` has it; `packages` is the folder with what the host lacks, in the form of a root."""

    kernel: Path
    initramfs: Path
    packages: Path
    release: str


def newest_kernel() -> str:
    """Raises `ImageError`."""
    offered = _run("apt-cache", "policy", *KERNELS)
    for name in KERNELS:
        if re.search(rf"^{re.escape(name)}:\n.*\n  Candidate: [^(]", offered, re.MULTILINE):
            return name
    raise ImageError(f"apt offers neither {' nor '.join(KERNELS)}: run apt-get update")


def build(folder: Path, kernel: str) -> Image:
    """Download, unpack and pack below `folder`, or take what is there. Raises `ImageError`."""
    wanted = _wanted(kernel)
    archives, folder = folder / "archives", folder / kernel
    stamp = folder / "built.txt"
    recipe = "\n".join([f"layout {LAYOUT}", GUEST.read_text(), *wanted])
    root, modules = folder / "packages", folder / "kernel"
    if not stamp.exists() or stamp.read_text() != recipe:
        stamp.unlink(missing_ok=True)
        for old in (root, modules):
            shutil.rmtree(old, ignore_errors=True)
            old.mkdir(parents=True)
        for name in wanted:
            archive = _download(name, archives)
            _run("dpkg-deb", "--extract", str(archive), str(modules if name.startswith("linux-") else root))
        _merge_usr(root)
        _pack(modules, root, folder / "initramfs.gz")
        stamp.write_text(recipe)
    (release,) = (entry.name for entry in (modules / "lib/modules").iterdir())
    return Image(modules / f"boot/vmlinuz-{release}", folder / "initramfs.gz", root, release)


def _run(*command: str, cwd: Path | None = None) -> str:
    """What it printed. Raises `ImageError` with its last words."""
    if shutil.which(command[0]) is None:
        raise ImageError(
            f"{command[0]} is missing: lane C takes its kernel and bluetoothd from Debian packages; "
            "run it on Debian, Ubuntu, or in a container of one of them"
        )
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=APT_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ImageError(
            f"`{' '.join(command)}` ended with {done.returncode}: {words[-1] if words else 'no words'}; "
            "is there a network, and are the package lists there (apt-get update)?"
        )
    return done.stdout


def _wanted(kernel: str) -> list[str]:
    """name=version of each package: the kernel, busybox for the boot, bluez with what this host lacks of its needs."""
    architecture = _run("dpkg", "--print-architecture").strip()
    if architecture != "amd64":
        raise ImageError(
            f"lane C runs this host's Python in its guest, and its guest is amd64, not {architecture}"
        )
    image = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", "--important", kernel))
    if image is None:
        raise ImageError(f"apt knows no kernel by the name of {kernel}: run apt-get update")
    printed = _run(
        "apt-get", "--quiet=2", "--no-install-recommends", "--print-uris", "install", "bluez", "dbus"
    )
    missing = sorted(set(re.findall(r"^'[^']+' ([^_ ]+)_", printed, re.MULTILINE)) | {"bluez"})
    names = [image[1], "busybox-static", *missing]
    return [f"{name}={_candidate(name)}" for name in names]


def _candidate(name: str) -> str:
    found = re.search(r"Candidate: (\S+)", _run("apt-cache", "policy", name))
    if found is None or found[1] == "(none)":
        raise ImageError(f"apt offers no {name}: run apt-get update")
    return found[1]


def _download(name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # apt writes a version's colon as %3a.
    pattern = name.replace("=", "_").replace(":", "%3a") + "_*.deb"
    if not list(folder.glob(pattern)):
        _run("apt-get", "--quiet=2", "download", name, cwd=folder)
    (archive,) = folder.glob(pattern)
    return archive


def _merge_usr(root: Path) -> None:
    """Older packages still unpack into /lib, which is a link to /usr/lib on every host: as a folder it would hide it."""
    for name in ("bin", "sbin", "lib", "lib64"):
        old = root / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, root / "usr" / name, dirs_exist_ok=True, symlinks=True)
            shutil.rmtree(old)


# -- the initramfs ---------------------------------------------------------------------------------------------------


def _pack(kernel: Path, packages: Path, target: Path) -> None:
    (busybox,) = [p for p in (packages / "usr/bin/busybox", packages / "bin/busybox") if p.exists()]
    files: list[tuple[str, bytes]] = [("init", GUEST.read_bytes()), ("bin/busybox", busybox.read_bytes())]
    names = []
    for number, (name, content) in enumerate(modules(kernel, MODULES)):
        names.append(f"modules/{number:02d}-{name}.ko")
        files.append((names[-1], content))
    target.write_bytes(gzip.compress(cpio(files), compresslevel=6, mtime=0))


def modules(kernel: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Each module with what it depends on before it; a name that the kernel has built in yields nothing."""
    files = {p.name.split(".")[0].replace("-", "_"): p for p in kernel.rglob("*.ko*")}
    done: set[str] = set()

    def load(name: str) -> Iterator[tuple[str, bytes]]:
        name = name.replace("-", "_")
        if name in done or name not in files:
            return
        done.add(name)
        content = _unpacked(files[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in depends[1].decode().split(",") if depends else []:
            yield from load(other)
        yield name, content

    for name in names:
        yield from load(name)


def _unpacked(module: Path) -> bytes:
    content = module.read_bytes()
    return lzma.decompress(content) if module.suffix == ".xz" else content


def cpio(files: Iterable[tuple[str, bytes]]) -> bytes:
    """An archive in the "newc" form of the kernel's initramfs documentation: all files executable, folders as needed."""
    out = bytearray()
    made: set[str] = set()

    def add(number: int, name: str, mode: int, content: bytes) -> None:
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        out.extend(b"070701" + "".join(f"{field:08X}" for field in fields).encode())
        out.extend(name.encode() + b"\0")
        out.extend(bytes(-len(out) % 4))
        out.extend(content)
        out.extend(bytes(-len(out) % 4))

    number = 0
    for name, content in files:
        for parent in reversed(Path(name).parents):
            folder = parent.as_posix()
            if folder != "." and folder not in made:
                made.add(folder)
                add(number := number + 1, folder, 0o040755, b"")
        add(number := number + 1, name, 0o100755, content)
    add(0, "TRAILER!!!", 0, b"")
    return bytes(out)
