"""Coverage-guided fuzzing of one decoder with atheris: new paths are searched for, not only new values.

    python -m tests.fuzz TARGET [--seconds 60]     TARGET `all` takes them in turn; `list` prints them
    python -m tests.fuzz TARGET --again FILE       one input once more, with its traceback
    python -m tests.fuzz TARGET --keep             after the run, renew the committed corpus (`KEPT_BYTES` per target)

One line of figures per target; exit 1 and the offending input's name when a decoder broke its promise. The search runs in
a process of its own, for libFuzzer ends the process that it runs in.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

#: Committed per target. The smallest inputs say most per byte.
KEPT_BYTES = 4096
#: Longest input that is tried: a few packets, or a message with all members.
INPUT_MAX = 1024
#: Seconds for one input: far beyond any honest one, on a busy machine.
INPUT_TIME = 20
#: Where inputs that broke a promise are left.
FINDINGS = Path("build/fuzz")


def search(target: str, arguments: list[str]) -> None:
    """In the child: libFuzzer with our packages instrumented. Does not return."""
    import atheris  # type: ignore[import-untyped]  # only where `make fuzz` has installed it

    with atheris.instrument_imports(include=["wire", "cloud", "edge", "firmware_sim", "glassbridge"]):
        from tests.fuzz.targets import TARGETS
    one = TARGETS[target]

    def test_one_input(data: bytes) -> None:
        one(bytes(data))

    atheris.Setup([sys.argv[0], *arguments], test_one_input)
    atheris.Fuzz()


def libfuzzer(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One run of the child; its words are in `stderr`."""
    command = [sys.executable, "-m", "tests.fuzz", target, "--child", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)


def hunt(target: str, seconds: int, *, keep: bool) -> bool:
    """Search for so long; whether the decoder kept its promise."""
    from tests.fuzz.targets import CORPUS, seeds, words

    FINDINGS.mkdir(parents=True, exist_ok=True)
    (CORPUS / target).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as given:
        for number, seed in enumerate(seeds(target)):
            (Path(given) / f"seed-{number}").write_bytes(seed)
        known = sorted(name for name in words(target) if name.isidentifier())
        names = Path(given).with_suffix(".dict")
        names.write_text("".join(f'"{name}"\n' for name in known))
        hints = [f"-dict={names}"] if known else []
        done = libfuzzer(
            target, f"-max_total_time={seconds}", f"-max_len={INPUT_MAX}", f"-timeout={INPUT_TIME}", "-rss_limit_mb=1024",
            "-print_final_stats=1", f"-artifact_prefix={FINDINGS}/{target}-", *hints, made, given, str(CORPUS / target),
        )  # fmt: skip
        names.unlink()
        found = re.findall(r"Test unit written to (\S+)", done.stderr)
        runs = re.findall(r"number_of_executed_units:\s*(\d+)", done.stderr)
        paths = re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)
        if done.returncode != 0 and not found:
            print(done.stderr[-2000:], file=sys.stderr)
        if keep and not found:
            renew(target, Path(made))
    cov, features = paths[-1] if paths else ("?", "?")
    print(
        f"fuzz {target}: {runs[-1] if runs else '?'} inputs in {seconds} s, {cov} branches, {features} features, "
        f"{'FINDING' if done.returncode else '0 findings'}",
        flush=True,
    )
    for path in found:
        print(f"  again: python -m tests.fuzz {target} --again {path}")
        print("  " + "\n  ".join(done.stderr.split("Uncaught Python exception")[-1].splitlines()[:40]))
    return done.returncode == 0


def is_found(path: Path) -> bool:
    """Whether a file of the corpus is named as the search names what it found."""
    return re.fullmatch(r"[0-9a-f]{12}", path.name) is not None


def renew(target: str, found: Path) -> None:
    """The smallest of the inputs that reached something new, up to the limit, in place of those of the last time. Inputs
    with a name (they once did harm) stay."""
    from tests.fuzz.targets import CORPUS

    kept = CORPUS / target
    before = [path for path in kept.iterdir() if is_found(path)]
    inputs = sorted((path.read_bytes() for path in (*found.iterdir(), *before)), key=len)
    for path in before:
        path.unlink()
    room = KEPT_BYTES
    for data in inputs:
        room -= len(data)
        if room < 0:
            break
        (kept / sha256(data).hexdigest()[:12]).write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="renew the committed corpus")
    parser.add_argument("--again", type=Path, help="run one input, without atheris")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        search(options.target, options.child)
    from tests.fuzz.targets import TARGETS

    if options.target == "list":
        print("\n".join(TARGETS))
        return 0
    if options.target != "all" and options.target not in TARGETS:
        parser.error(f"no target {options.target!r}; there are: {', '.join(TARGETS)}")
    if options.again is not None:
        TARGETS[options.target](options.again.read_bytes())
        return 0
    chosen = list(TARGETS) if options.target == "all" else [options.target]
    good = [hunt(target, options.seconds, keep=options.keep) for target in chosen]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
