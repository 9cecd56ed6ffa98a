"""What lane C is built from, as far as it goes without its machine: the archive it boots from, the order of modules,
what is said where something is missing. The rest is held by `make realbluez` itself.
"""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest

from firmware_sim.vm import image, machine
from firmware_sim.vm.image import GUEST, ImageError, cpio, modules
from firmware_sim.vm.vhci import VirtualAdapter


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> (mode, content) of a "newc" archive, read from the documentation of the kernel."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = -(-(at + 110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        at = -(-(start + size) // 4) * 4


def test_the_archive_has_every_file_after_its_folders() -> None:
    files = [("init", b"#!x"), ("a/b/c", b"12345"), ("a/b/d", b"")]
    found = entries(cpio(files))
    assert list(found) == ["init", "a", "a/b", "a/b/c", "a/b/d"]
    assert {name: content for name, (_, content) in found.items() if content} == {
        "init": b"#!x",
        "a/b/c": b"12345",
    }
    assert found["a/b"][0] == 0o040755
    assert found["init"][0] == 0o100755


def test_modules_come_after_what_they_depend_on_and_once(tmp_path: Path) -> None:
    def module(name: str, depends: str, packed: bool = False) -> None:
        content = b"ELF\0license=GPL\0depends=" + depends.encode() + b"\0name=" + name.encode() + b"\0"
        target = tmp_path / f"{name}.ko{'.xz' if packed else ''}"
        target.write_bytes(lzma.compress(content) if packed else content)

    module("hci_vhci", "bluetooth")
    module("bluetooth", "ecdh-generic,rfkill", packed=True)
    module("ecdh_generic", "ecc")
    module("ecc", "")
    module("rfkill", "")
    loaded = [name for name, _ in modules(tmp_path, ["aes_generic", "ecdh_generic", "bluetooth", "hci_vhci"])]
    assert loaded == ["ecc", "ecdh_generic", "rfkill", "bluetooth", "hci_vhci"]


def test_what_was_unpacked_hides_no_folder_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "lib/x").mkdir(parents=True)
    (tmp_path / "lib/x/file").write_text("here")
    (tmp_path / "usr/lib").mkdir(parents=True)
    image._merge_usr(tmp_path)
    assert not (tmp_path / "lib").exists()
    assert (tmp_path / "usr/lib/x/file").read_text() == "here"


def test_without_qemu_it_is_said_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ble.realbluez"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"realbluez: {machine.QEMU} is missing. Debian: apt-get install")


def test_without_apt_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="apt-cache is missing"):
        image.newest_kernel()


def test_the_guest_shares_the_host_read_only_and_has_no_network(tmp_path: Path) -> None:
    made = image.Image(tmp_path / "kernel", tmp_path / "initramfs", tmp_path / "packages", "6.12")
    arguments = machine._qemu(made, tmp_path / "out", kvm=False)
    assert arguments[arguments.index("-nic") + 1] == "none"
    shares = {each.split("mount_tag=")[1].split(",")[0]: each for each in arguments if "mount_tag" in each}
    assert set(shares) == {"host", "packages", "out"}
    assert "readonly=on" in shares["host"]
    assert "readonly=on" in shares["packages"]
    assert all(
        f"mount -t 9p -o ro,cache=loose,$options {tag}" in GUEST.read_text() for tag in ("host", "packages")
    )


def test_the_kernels_adapter_takes_a_unix_transport_only() -> None:
    with pytest.raises(ValueError, match="tcp-client"):
        VirtualAdapter("tcp-client:127.0.0.1:1")
