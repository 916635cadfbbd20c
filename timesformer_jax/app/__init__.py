"""The page in a browser: upload a video, and see what checkpoints predict and where they look. Run by `timesformer app`."""
