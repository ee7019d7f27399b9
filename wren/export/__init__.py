"""Models in other programs' formats, out (Hugging Face, GGUF) and in."""
