"""The three steps of every ensemble. Only `adapter` knows Triton; the rest runs anywhere."""
