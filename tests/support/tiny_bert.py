"""A sentence encoder of a few numbers, from a configuration: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

WORDS = "the a cat dog sat ran on mat in park it was red blue old new small big very not".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def encoder(folder: Path, dropout: float = 0.0):
    """Return a ``SentenceTransformer`` of one layer, whose files are kept in a folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **sizes,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return SentenceTransformer(str(folder), device="cpu")


def sentences(count: int, start: int = 0) -> list[str]:
    """Return sentences that differ."""
    return [f"the {WORDS[n % 20]} {WORDS[n // 20 % 20]} sat" for n in range(start, start + count)]
