"""What Triton itself takes for a chain of Python steps: see `__main__.py`."""
