"""What `gpuvec doctor` says of cards and their libraries, by what there is."""

import re
import sys

import pytest

from gpuvec.device.detect import Card, Driver, ask_cards
from gpuvec.device.stack import LEVELS, PACKAGES, gpu_parts, try_card
from gpuvec.testing.rehearsal import rehearsal, why_not

H100 = Card(name="NVIDIA H100 80GB HBM3", size_bytes=85_520_809_984, compute="90")
CARD = Driver(cards=(H100,), cuda=(13, 0))
NO_CARD = Driver(reason="there is no NVIDIA driver (libcuda) on this machine")
CU13 = ("cupy-cuda13x", "nvidia-cuda-nvrtc", "cudf-cu13", "cuvs-cu13", "rmm-cu13", "kvikio-cu13")


def parts(*installed, driver=CARD):
    found = gpu_parts(lambda name: "26.6.0" if name in installed else None, lambda: driver)
    return {part.name: part for part in found}


def test_without_card_and_packages_one_line_says_so():
    [part] = parts(driver=NO_CARD).values()
    assert part.state == "ok"
    assert "no NVIDIA driver" in part.text
    assert "everything runs on the CPU" in part.text


def test_packages_without_a_card_are_a_note_on_the_driver():
    found = parts("cupy-cuda13x", driver=NO_CARD)
    assert found["gpu"].state == "note"
    assert "nvidia-smi" in found["gpu"].remedy
    assert "gpu level" not in found


def test_a_card_is_named_with_its_memory_and_its_driver():
    text = parts(*CU13)["gpu"].text
    assert re.search(r"H100.*79\.6 GiB, sm_90; driver for CUDA 13\.0", text)


@pytest.mark.parametrize(
    ("installed", "level"),
    [((), 0), (CU13[:2], 1), (CU13[:3], 2), (CU13, 3), ((*CU13[:3], "faiss-gpu"), 3),
     ((*CU13, "dask-cuda"), 4), (("cudf-cu13", "dask-cuda"), 0)],
)  # fmt: skip
def test_the_level_is_the_highest_that_holds_and_the_next_has_its_remedy(installed, level):
    found = parts(*installed)["gpu level"]
    assert found.text == LEVELS[level]
    assert (found.state == "ok") == (level == 4)
    assert level == 4 or found.remedy.startswith(f"for L{level + 1} install")


def test_every_package_is_told_with_what_it_is_for():
    found = parts(*CU13, "dask-cuda")
    for package in PACKAGES:
        assert found[package.name].state == "ok"
        assert package.purpose in found[package.name].text
    none = parts()
    for package in PACKAGES:
        assert none[package.name].state == ("ok" if package.optional else "note")
        assert "not installed" in none[package.name].text


def test_two_owners_of_a_module_are_an_error():
    found = parts("cupy-cuda12x", "cupy-cuda13x")["CuPy"]
    assert found.state == "fail"
    assert "pip uninstall cupy-cuda12x cupy-cuda13x" in found.remedy


def test_packages_that_the_driver_cannot_run_are_an_error_and_mixed_ones_a_note():
    old = Driver(cards=(H100,), cuda=(12, 8))
    found = parts(*CU13, driver=old)["gpu"]
    assert found.state == "fail"
    assert "580" in found.remedy
    assert parts("cupy-cuda12x", driver=old)["gpu"].state == "ok"
    assert parts("cupy-cuda12x", driver=CARD)["gpu"].state == "ok"
    assert "mixed" in parts("cupy-cuda12x", "rmm-cu13")["gpu"].text


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_card_is_tried_and_one_that_fails_says_why():
    with rehearsal(card_bytes=1 << 30) as card:
        tried = try_card()
        assert tried.state == "ok"
        assert "1.0 of 1.0 GiB free; gpuvec takes 0.9 GiB" in tried.text
        card.others = card.total
        card.free_pool()
        failed = try_card()
    assert failed.state == "fail"
    assert "OutOfMemoryError" in failed.text


@pytest.mark.skipif("cupy" in sys.modules, reason="there is a card, or one is rehearsed")
def test_a_card_that_cupy_cannot_use_is_a_failure():
    tried = parts(*CU13)["gpu memory"]
    assert tried.state == "fail"
    assert "cannot be used" in tried.text


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_the_driver_itself_is_asked():
    with rehearsal():
        driver = ask_cards()
    assert [card.name for card in driver.cards] == ["rehearsed"]
    assert driver.cuda == (13, 0)
