"""Both hooks on SD1.x, SD2.x (v prediction) and SDXL layouts, beside ControlNets and other packs' patches."""

import pytest


@pytest.fixture(scope="module")
def seen(comfyui_path, tmp_path_factory):
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path_factory.mktemp("layouts"))("layouts.py")


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_both_runtimes_agree(seen, layout):
    s = seen[layout]
    assert s["names"] and s["known"] and s["everywhere"]
    assert s["outputs"] < 1e-3 and s["residuals"] < 1e-3


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_hooks_that_change_nothing_leave_every_bit(seen, layout):
    assert seen[layout]["untouched"] and seen[layout]["control_untouched"]


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_methods_live_beside_controlnets_and_other_packs(seen, layout):
    s = seen[layout]
    assert s["control_differs"] > 1e-3 and s["features_before_control"]
    assert s["control"] < 1e-3
    assert s["chained_None"] and s["chained_0"]
