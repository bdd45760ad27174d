"""Errors that a user can act on.

Every failure that neuropatch foresees is a :class:`NeuropatchError`: one line that names what is
wrong, and a hint that says what to do next. The command line prints both and exits with 1; a
library user catches the subclass. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations


class NeuropatchError(Exception):
    """Base of all foreseen errors.

    Args:
        message: One line that names what is wrong, including the file, tensor or option.
        hint: One line that says what to do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(NeuropatchError):
    """Options or arguments that cannot go together, or lie outside their range."""


class DataError(NeuropatchError):
    """A data set that cannot be read, or whose rows cannot be used."""


class ArchitectureError(NeuropatchError):
    """A model whose architecture is unknown, or does not have what was asked for."""


class ModelError(NeuropatchError):
    """A model that cannot be loaded or does not behave as its architecture says."""


class CheckpointError(NeuropatchError):
    """A checkpoint on disk that is missing, corrupt, or cannot take the edit."""


class PatchFormatError(NeuropatchError):
    """A patch file that breaks the format, or that needs a newer neuropatch."""


class PatchMismatchError(NeuropatchError):
    """A patch that does not fit the model or checkpoint it is applied to."""


class PatchConflictError(NeuropatchError):
    """Patches that edit the same coordinate in different ways."""


class SelectionError(NeuropatchError):
    """A selection that leaves no weight or unit to edit."""


class ResourceError(NeuropatchError):
    """Not enough memory or disk for what was asked for."""


class OutputError(NeuropatchError):
    """An output that exists already, or cannot be written."""


class ProcessError(NeuropatchError):
    """A run on several processes of which one has ended.

    Args:
        message: As of every error; it names the process.
        hint: As of every error.
        told: Whether another process tells the user.
    """

    def __init__(self, message: str, *, hint: str | None = None, told: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.told = told


class HubError(NeuropatchError):
    """A Hugging Face Hub request that failed."""
