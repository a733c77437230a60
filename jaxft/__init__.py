"""jaxft: functional fine-tuning of BERT-like encoders in pure JAX."""

__version__ = "0.1.0"
