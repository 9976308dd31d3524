"""Flags hashes seen in public logs, with the flags that reproduce them."""

from __future__ import annotations

LEGACY_HASHES: dict[str, list[str]] = {  # up to 2.14
    "d41d8cd9": [],
    "abb26765": ["--model-type=transformer"],
    "2c2d707e": ["--model-type=transformer", "--auto-cast=none"],
    "00875417": ["--auto-cast", "none"],
}
_LLM_FLAGS = [
    "--model-type",
    "transformer",
    "--distribution-strategy=llm-training",
    "--enable-mixed-precision-accumulation",
]
_NXDI_FLAGS = [
    "--target=trn1",
    "--auto-cast=none",
    "--model-type=transformer",
    "--tensorizer-options=--enable-ccop-compute-overlap --cc-pipeline-tiling-factor={tiling} --vectorize-strided-dma ",
    "--lnc=1",
]
# Both are 359 bytes long as JSON, the size of `compile_flags.json` in public listings.
TOKEN_GENERATION = [
    *[flag.format(tiling=1) for flag in _NXDI_FLAGS],
    "-O2",
    "--internal-hlo2tensorizer-options=--verify-hlo=true",
    "--logfile=/tmp/nxd_model/token_generation_model/_tp0_bk0/log-neuron-cc.txt",
    "--enable-internal-neff-wrapper",
]
CONTEXT_ENCODING = [
    *[flag.format(tiling=2) for flag in _NXDI_FLAGS],
    "-O1",
    "--internal-hlo2tensorizer-options= --modular-flow-mac-threshold=10  --verify-hlo=true",
    "--logfile=/tmp/nxd_model/context_encoding_model/_tp0_bk0/log-neuron-cc.txt",
]
HASHES: dict[str, list[str]] = {  # from 2.15 on
    "d7517139": [],
    "39f12043": ["--model-type=transformer", "--auto-cast=none", "--execute-repetition=1"],
    "d7cde3b5": ["--model-type=transformer", "--auto-cast=none"],
    "725887e1": _LLM_FLAGS,
    "3cc9a3cb": ["--target=trn1", "--model-type=transformer"],
    "e30acd3a": ["--target=trn1"],
    "fad94d7c": ["--target=trn2"],
    "b4f3b477": ["--target=inf2"],
    "f7f529f3": ["--target=trn1", "--model-type", "transformer"],
    "e132a0f1": ["--target=trn1", *_LLM_FLAGS],
    "839ddec0": ["--target=trn2", "--model-type=transformer", "--optlevel=1", "--enable-saturate-infinity", "--lnc=2"],
    "617f6939": TOKEN_GENERATION,
    "ad9e832d": CONTEXT_ENCODING,
}
