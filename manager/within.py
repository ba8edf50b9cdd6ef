"""A view as a condition on rows, so that what a caller may not see is left out before paging."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from manager.ownership import View


def within(
    columns: "ReadOnlyColumnCollection[str, sa.Column[Any]]", view: View
) -> sa.ColumnElement[bool]:
    """Holds for rows of the view; the table has columns `tenant_domain` and `tenant`."""
    if view.tenant is None:
        return sa.true()
    return sa.and_(columns.tenant_domain == view.tenant.domain, columns.tenant == view.tenant.name)
