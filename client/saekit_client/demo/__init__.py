"""`saekit demo`: everything once, on the embedded model, each step checked."""
