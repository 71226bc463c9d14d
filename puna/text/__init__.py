"""The nouns and the words: dialogs, preferences, tokenizers, prompts, completions. No torch."""
