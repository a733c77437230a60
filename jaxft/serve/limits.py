"""What a service takes at most; what is above it is refused, or cut, which the answer says."""

import dataclasses

from jaxft.errors import UserError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one service; the flags `--serve.NAME` set them, and `/info` lists them.

    Attributes:
      tokens: of a batch, about; 0: what suits the device, see `budget`.
      body: bytes of a request's body.
      texts: texts or rows of a request.
      characters: of a text; what follows is cut off.
      request_tokens: of a request, once its texts are cut.
      queue: texts that wait or are computed.
      seconds: that a request may take, and its body to come.
      log_texts: whether texts and rows are written into the log.
    """

    tokens: int = 0
    body: int = 1 << 20
    texts: int = 256
    characters: int = 20_000
    request_tokens: int = 65_536
    queue: int = 1024
    seconds: int = 30
    log_texts: bool = False

    def check(self) -> "Limits":
        """Returns them as they are.

        Raises:
          UserError: one is too small.
        """
        for field in dataclasses.fields(self):
            least = 0 if field.name == "tokens" else 1
            value = getattr(self, field.name)
            if not isinstance(value, bool) and value < least:
                raise UserError(f"--serve.{field.name} is {value}; it must be at least {least}")
        return self

    def budget(self, device: str) -> int:
        """Returns the tokens of a batch on a kind of device: on CPU more at once gain nothing, and wait longer."""
        return self.tokens or (1024 if device == "cpu" else 16_384)
