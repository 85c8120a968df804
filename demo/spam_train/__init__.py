"""Training and cross-validation of the spam demo's weights; not needed to run the demo."""
