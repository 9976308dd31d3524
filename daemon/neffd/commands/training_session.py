"""A training session that is just long enough to have every graph of it compiled: `neff add -m MODEL`.

Runs in the trainer's environment, below torchrun, and imports nothing of neffd: the hook comes by `neff run`. What is
learnt is thrown away, so the inputs are the same few numbers over and over.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import sys
import tempfile
from collections.abc import Collection, Sequence
from typing import Any

Example = dict[str, Any]

_SEQUENCE_PAIRS = ("text2text-generation", "summarization", "translation")
_MODEL_CLASSES = {
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    **dict.fromkeys(_SEQUENCE_PAIRS, "AutoModelForSeq2SeqLM"),
}
_CAUSAL = "text-generation"
_CHOICES = 2
_SMALLEST_VOCABULARY = 100


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The session's arguments, as `neffd.commands.training` passes them."""
    parser = argparse.ArgumentParser()
    for name in ("model", "task", "precision"):
        parser.add_argument("--" + name, required=True)
    for name in ("train_batch_size", "gradient_accumulation_steps", "max_steps"):
        parser.add_argument("--" + name, type=int, required=True)
    for name in ("eval_batch_size", "sequence_length", "encoder_sequence_length", "decoder_sequence_length"):
        parser.add_argument("--" + name, type=int)
    return parser.parse_args(words)


def example(args: argparse.Namespace, vocabulary_size: int = _SMALLEST_VOCABULARY) -> Example:
    """One example of the task, with the shapes that were asked for: lists of numbers by the name of the input."""
    length = args.sequence_length or args.encoder_sequence_length
    tokens = [1 + place % (vocabulary_size - 1) for place in range(length)]
    if args.task == "multiple-choice":
        return {"input_ids": [tokens] * _CHOICES, "attention_mask": [[1] * length] * _CHOICES, "labels": 0}
    labels: dict[str, Example] = {
        "text-classification": {"labels": 0},
        "token-classification": {"labels": [0] * length},
        "question-answering": {"start_positions": 0, "end_positions": 0},
        **{task: {"labels": [1] * (args.decoder_sequence_length or 0)} for task in _SEQUENCE_PAIRS},
    }
    return {"input_ids": tokens, "attention_mask": [1] * length, **labels.get(args.task, {"labels": tokens})}


def settings(args: argparse.Namespace, known: Collection[str], output_dir: str) -> dict[str, Any]:
    """The trainer's arguments, as far as this version of it knows them."""
    wanted = {
        "output_dir": output_dir,
        "do_train": True,
        "per_device_train_batch_size": args.train_batch_size,
        "per_device_eval_batch_size": args.eval_batch_size or args.train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "max_steps": args.max_steps,
        "bf16": args.precision == "bf16",
        "dataloader_drop_last": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "skip_cache_push": True,  # neffd brings it to the repo
    }
    return {name: value for name, value in wanted.items() if name in known}


def load(args: argparse.Namespace, trainer_args: Any) -> Any:
    """The model of the task, in its precision."""
    torch = importlib.import_module("torch")
    options = {"torch_dtype": torch.bfloat16 if args.precision == "bf16" else torch.float32}
    if args.task != _CAUSAL:
        model_class = getattr(importlib.import_module("transformers"), _MODEL_CLASSES[args.task])
        return model_class.from_pretrained(args.model, **options)
    try:
        model_class = importlib.import_module("optimum.neuron.models.training").NeuronModelForCausalLM
    except ImportError:  # before optimum-neuron 0.2 it trained transformers' own models
        return importlib.import_module("transformers").AutoModelForCausalLM.from_pretrained(args.model, **options)
    return model_class.from_pretrained(args.model, trainer_args.trn_config, **options)


def main(words: Sequence[str]) -> None:
    args = parse(words)
    neuron = importlib.import_module("optimum.neuron")
    known = {field.name for field in dataclasses.fields(neuron.NeuronTrainingArguments)}
    with tempfile.TemporaryDirectory(prefix="neff-add-") as output_dir:
        trainer_args = neuron.NeuronTrainingArguments(**settings(args, known, output_dir))
        model = load(args, trainer_args)
        config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
        one = example(args, min(_SMALLEST_VOCABULARY, getattr(config, "vocab_size", _SMALLEST_VOCABULARY)))
        batches = args.train_batch_size * args.gradient_accumulation_steps * trainer_args.world_size
        trainer = neuron.NeuronTrainer(model=model, args=trainer_args, train_dataset=[one] * batches * args.max_steps)
        trainer.train()
        if args.eval_batch_size:
            evaluate(trainer, [one] * args.eval_batch_size * trainer_args.world_size)


def evaluate(trainer: Any, dataset: Sequence[Example]) -> None:
    """Have the graph of an evaluation compiled too, where this version of optimum-neuron can evaluate."""
    if "eval_dataset" in inspect.signature(getattr(trainer, "evaluate", main)).parameters:
        trainer.evaluate(eval_dataset=dataset)
    else:
        print("neff add: this optimum-neuron does not evaluate: --eval_batch_size adds no graph", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
