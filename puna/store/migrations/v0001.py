"""Schema 0001: all tables."""

from alembic import op

from puna.store.tables import Base

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    Base.metadata.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    """Drop all tables, and what is in them."""
    Base.metadata.drop_all(op.get_bind(), checkfirst=False)
