"""The registry's published example and the vectors that follow from its rules."""

from __future__ import annotations

from typing import Any

NAMESPACE = "neuronxcc-2.12.54.0+f631c2365"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 128256,
}
OLD_NEURON: dict[str, Any] = {
    "task": "text-generation",
    "batch_size": 1,
    "num_cores": 24,
    "auto_cast_type": "fp16",
    "sequence_length": 2048,
    "compiler_type": "neuronx-cc",
    "compiler_version": "2.12.54.0+f631c2365",
    "checkpoint_id": "meta-llama/Llama-2-7b-chat-hf",
    "checkpoint_revision": "c1b0db933684edbfe29a06fa47eb19cc48025e93",
}
OLD_HASH = "8f6c706918a72993310e"
NEW_NEURON: dict[str, Any] = {
    "batch_size": 1,
    "sequence_length": 2048,
    "tp_degree": 2,
    "torch_dtype": "bfloat16",
    "target": "trn1",
}
NEW_HASH = "bafab4c5d20be91060db"
DIGEST = "fab1dfabec73677bd99895abbb5b93270e42251516a7b6ac164bd0df8ad928c6"
EMPTY_PIPELINE = b'{"configs": {}, "model_type": "stable-diffusion"}'
