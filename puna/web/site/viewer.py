"""Who is looking at a page."""

from dataclasses import dataclass

from puna.store.tables import ROLES

NOBODY = ""  # the role of a route that is open to all


@dataclass(frozen=True)
class Viewer:
    """A person who is logged in, or nobody."""

    id: int = 0
    name: str = ""
    role: str = NOBODY
    csrf: str = ""  # what the pages send with everything that changes something
    login_id: int = 0

    def may(self, role: str) -> bool:
        """Whether this is enough for what needs `role`: an admin may do what a reviewer may."""
        if role == NOBODY:
            return True
        return self.role in ROLES and ROLES.index(self.role) >= ROLES.index(role)

    @property
    def known(self) -> bool:
        """Whether somebody is logged in."""
        return self.role != NOBODY
