"""The exception family. It lives in the lowest layer, so every layer can raise it."""


class PolyfieldError(Exception):
    """Whatever polyfield refuses. The command line prints it as one sentence and exits with 2."""


class InputError(PolyfieldError, ValueError):
    """Something the caller gave cannot be used: where it stands, what it is, what was expected."""

    def __init__(self, where: str, got: str, expected: str, remedy: str = ""):
        super().__init__(where, got, expected, remedy)  # all four: it survives pickling
        self.where, self.got, self.expected, self.remedy = where, got, expected, remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.got}; expected {self.expected}. {self.remedy}".rstrip()


class MissingExtraError(PolyfieldError, ImportError):
    """An optional package is needed and absent: names the extra of polyfield that brings it."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(package, extra, purpose)
        self.package, self.extra, self.purpose = package, extra, purpose

    def __str__(self) -> str:
        return (
            f"{self.purpose} needs the package {self.package}, which is not installed. "
            f"Install it with: pip install 'polyfield[{self.extra}]'"
        )


class BackendError(PolyfieldError, RuntimeError):
    """A kernel cannot run where it was asked to: names the backend, why, and what to do."""
