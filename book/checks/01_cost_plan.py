"""Checks of chapter 01's coding exercises."""


def exercise_3(llama_parameters):
    """Attention has four matrices: query and output are width x width, key and value width x (kv_heads * head width).
    SwiGLU has three. A tied model stores the vocabulary once. Norms are vectors of the width: two a layer, one at the
    end."""
    assert llama_parameters(2, 3, 0, 1, 1, 5, True) == 12, (
        "no layers: vocabulary once and last norm, 5·2 + 2 = 12"
    )
    untied = llama_parameters(2, 3, 0, 1, 1, 5, False)
    assert untied == 22, f"untied, the head has a matrix of its own: 22, yours gives {untied}"
    published = {
        "MiniLLM 0.2B": ((1024, 2752, 12, 8, 8, 64_793, True), 218_155_008),
        "MiniLLM 1.1B": ((2048, 5632, 22, 32, 4, 64_793, True), 1_101_672_448),
        "TinyLlama": ((2048, 5632, 22, 32, 4, 32_000, False), 1_100_048_384),
        "HammerLLM": ((2048, 5632, 22, 32, 4, 105_789, False), 1_402_288_128),
    }
    for name, (shape, parameters) in published.items():
        given = llama_parameters(*shape)
        assert given == parameters, f"{name} has {parameters:,} parameters, yours gives {given:,}"
