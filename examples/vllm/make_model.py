"""A Llama of random weights, with a tokenizer, in a folder: for trying things out, without downloading anything.

    python make_model.py FOLDER [--layers 12] [--hidden 768]

Weights are seeded: every run makes the same model. A token is a character. What it says is nonsense, always the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT_TOKENS = 8192
SPECIAL = ("<s>", "</s>", "<unk>")


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each character of ASCII, and no merges: nothing has to be learnt, and whatever comes out is text."""
    characters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # as ByteLevel writes space and newline
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *characters])}
    ascii_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL[2]))
    ascii_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ascii_only.decoder = decoders.ByteLevel()
    begin, end, unknown = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=ascii_only, bos_token=begin, eos_token=end, unk_token=unknown)


def llama(layers: int, hidden: int, vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768, help="a multiple of 256")
    options = parser.parse_args()
    words = tokenizer()
    model = llama(options.layers, options.hidden, len(words))
    words.save_pretrained(options.folder)
    model.save_pretrained(options.folder)
    millions = sum(weights.numel() for weights in model.parameters()) / 1e6
    print(f"{options.folder}: a Llama of {options.layers} layers and {millions:.0f} million random weights")


if __name__ == "__main__":
    main()
