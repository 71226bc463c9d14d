"""Puna: the complete Llama 2 recipe, from raw text to an aligned, safe chat model."""

__version__ = "0.1.0"
