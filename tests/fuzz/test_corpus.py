"""Every committed input, and every good one that the repository has, through its decoder: without atheris, in a second."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import KEPT_BYTES, is_found
from tests.fuzz.targets import CORPUS, TARGETS, committed, seeds


@pytest.mark.failure("BLE-14")
@pytest.mark.failure("SEC-12")
@pytest.mark.parametrize("target", TARGETS)
def test_whatever_was_found_before_is_decoded_or_refused(target: str) -> None:
    for path in committed(target):
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"python -m tests.fuzz {target} --again {path}") from error
    for seed in seeds(target):
        TARGETS[target](seed)


def test_every_target_has_a_corpus_of_its_own_and_what_was_searched_out_is_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    for target in TARGETS:
        sizes = [path.stat().st_size for path in committed(target) if is_found(path)]
        assert committed(target), target
        assert sum(sizes) <= KEPT_BYTES, target
