"""Text to tokens and back: a byte-level BPE at any vocabulary size from 258 to 200,000."""

from wren.tokenizer.bpe import SPLIT_PATTERN, Tokenizer, check_vocab_size, clean

__all__ = ["SPLIT_PATTERN", "Tokenizer", "check_vocab_size", "clean"]
