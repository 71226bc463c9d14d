"""The nouns and the words: dialogs, preferences, tokenizer, chat format, completions. No torch."""
