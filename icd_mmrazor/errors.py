"""What a user gets for bad input: each message names the setting, its value and the remedy."""


class UserError(Exception):
    """Base of the errors that a user can mend; the tools print their message without a stack trace."""


class SettingError(UserError, ValueError):
    """A setting of a config or of the command line is wrong."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing, is not a plain weights file, or does not fit the model."""


class DatasetError(UserError, RuntimeError):
    """A dataset is missing, damaged, or does not fit the model."""


class NonFiniteLossError(UserError, ArithmeticError):
    """Training produced an infinite or undefined number."""
