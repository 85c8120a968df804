"""The two demo checkpoints of tritext: personal data in text (pii) and spam e-mail (spam)."""
