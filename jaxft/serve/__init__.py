"""Answers over HTTP (docs/serve.md): requests of many clients are computed together by one thread."""
