"""Words to conditioning: the tokenizer and the text encoder."""
