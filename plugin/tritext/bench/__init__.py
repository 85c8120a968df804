"""The load generator: what a served model does under load, for `tritext bench`.

`tritext.bench.load` and `tritext.bench.summary` know no product: whatever can be awaited can be loaded and measured.
"""
