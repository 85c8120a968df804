"""From text to token ids, exactly as the checkpoint's own tokenizer does it."""
