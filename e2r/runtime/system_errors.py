"""What the system refuses, as one sentence that names the place and the remedy."""

from __future__ import annotations

import errno
import os

REFUSALS = (ValueError, FloatingPointError, OSError)
"""What a command raises for input that it refuses, or for a place that the system refuses."""
SENTENCES = {
    errno.ENOENT: "no such file or folder; check the path",
    errno.EEXIST: "is there already and is in the way; move it away, or name another place",
    errno.ENOTDIR: "lies below a file where a folder is needed; name another place",
    errno.EISDIR: "is a folder where a file is needed; name a file",
    errno.EACCES: "may not be read or written; change its permissions, or name another place",
    errno.EPERM: "may not be read or written; change its permissions, or name another place",
    errno.EROFS: "lies on a read-only disk; name a place on another one",
    errno.ENOSPC: "the disk is full; free some space, or name a place on another disk",
    errno.EDQUOT: "the quota of the disk is used up; free some space, or name another disk",
    errno.EFBIG: "is too large for its disk; name a place on another disk",
    errno.ENAMETOOLONG: "its name is too long; give a shorter one",
    errno.ELOOP: "its links lead in a circle; name the real path",
    errno.EBUSY: "is in use; close the program that uses it, or name another place",
    errno.ETXTBSY: "is in use; close the program that uses it, or name another place",
    errno.ENOTEMPTY: "is a folder that is not empty; name another place",
    errno.EXDEV: "lies on two disks; name a place that does not span disks",
    errno.EIO: "the disk fails to read or write it; copy it to another disk",
    errno.ESTALE: "the network disk has lost it; connect the disk again",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n), or ask for less at once",
    errno.ENFILE: "too many files are open; close other programs",
    errno.ENOMEM: "the memory is used up; close other programs, or ask for less at once",
    errno.EINVAL: "is no path that this disk takes; give a plain name",
    errno.EPIPE: "the program that read the output has ended; run the command without it",
}
"""Error number of the system -> what is wrong, and the remedy."""


def explain(error: OSError) -> str:
    """The sentence of an error of the system.

    Args:
      error: raised by the system, or by a library in its name.

    Returns:
      The sentence; the error's own text where the system gave no number.
    """
    if error.errno is None:
        return str(error)
    reason = SENTENCES.get(error.errno)
    if reason is None:
        known = error.strerror or os.strerror(error.errno)
        reason = f"the system refused it ({known.lower()}); check the file and its disk"
    place = error.filename if error.filename2 is None else error.filename2
    return f"{os.fsdecode(place)}: {reason}" if isinstance(place, str | bytes) else reason
