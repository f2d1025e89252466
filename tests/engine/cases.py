"""What the tests of the engine share: files whose content would leave a mark when it is run."""

import os


class Payload:
    """Pickled, a call that makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def write_module(folder, mark):
    """A module of the name ``stranger`` that leaves the mark when it is imported."""
    text = (
        f"import os\nos.mkdir({str(mark)!r})\n\n\ndef build(**arguments):\n    return arguments\n"
    )
    (folder / "stranger.py").write_text(text)
