"""tritext against what users would pick instead: the same checkpoint, texts and load, in one run."""
