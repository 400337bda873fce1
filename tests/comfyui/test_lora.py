"""LoRA files load onto the embedded model as onto any checkpoint."""


def test_lora_files(inside):
    seen = inside("lora.py", inference_mode=True)
    assert seen["changed"] > 1e-2 and seen["untouched"]
    assert seen["kohya"] < 1e-4 and seen["kohya_diffusers"] < 1e-4
