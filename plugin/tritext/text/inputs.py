"""What is tokenized together."""

# A text, or a pair of texts.
TextInput = str | tuple[str, str]
