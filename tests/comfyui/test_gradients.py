"""Training inside a node: autograd through a MODEL whose weights and conditioning were made under inference mode."""


def test_gradients_inside_a_node(inside):
    seen = inside("gradients.py", inference_mode=True)
    assert seen["inference"], "the test must start from inference tensors"
    assert seen["gradient"] < 1e-3 and seen["not_flat"] > 0
    assert seen["weights_left"] and seen["no_grad_left"] and seen["left_after_error"] and seen["still_samples"]
    assert seen["lora"] < 1e-3 < seen["lora_differs"]
    assert seen["lora_gone"] < 1e-5
    assert seen["one_way"] < 1e-3 and seen["moved"] < 1e-3
    assert seen["controlled"] > 1e-3 and seen["controlnet_left"]
    assert seen["patched"] == "v_prediction"
