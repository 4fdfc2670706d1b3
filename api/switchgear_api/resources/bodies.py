"""What callers may send. Field names are those of the YAML; unknown fields are refused.

Only shape and size are checked here: what a field may hold is the CRDs' business, and the API server's message reaches
the caller. A database URL is the exception: it never gets into a resource, so it is checked here.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator


def _plain(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("must be printable text without spaces at its ends")
    return value


ShortName = Annotated[
    str,
    Field(min_length=1, max_length=63, description="Short name, unique within its parent."),
    AfterValidator(_plain),
]
ResourceName = Annotated[
    str | None,
    Field(max_length=63, description="metadata.name to use instead of <project>-<environment>[-<service>]."),
]


def _postgres_url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL such as postgresql://user:password@host:5432/dbname") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("must begin with postgresql:// (or postgres://)")
    return value


DatabaseUrl = Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(_postgres_url)]


class Body(BaseModel):
    """Strict about names: a misspelt field is an error and not silently nothing."""

    model_config = ConfigDict(extra="forbid")


class Reference(Body):
    """A resource in the same workspace, by resource name or by short name."""

    name: Annotated[str, Field(min_length=1, max_length=253)]


class SecretKey(Body):
    """A key of a Secret in the workspace's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    key: Annotated[str, Field(min_length=1, max_length=253)]


class Storage(Body):
    """The volume of a service."""

    size: Annotated[str | None, Field(max_length=32, examples=["10Gi"])] = None
    className: Annotated[str | None, Field(max_length=253)] = None  # noqa: N815


class NewWorkspace(Body):
    """A team's own namespace."""

    name: Annotated[str, Field(min_length=1, max_length=63, description="Name of the namespace; made when missing.")]
    displayName: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain)] | None = None  # noqa: N815


class NewProject(Body):
    """An app or product."""

    name: ShortName
    resourceName: ResourceName = None  # noqa: N815


class NewEnvironment(Body):
    """production, staging, pr-42 …"""

    name: ShortName
    projectRef: Reference  # noqa: N815
    resourceName: ResourceName = None  # noqa: N815


class NewService(Body):
    """What both kinds of service have."""

    name: ShortName
    environmentRef: Reference  # noqa: N815
    resourceName: ResourceName = None  # noqa: N815
    region: Annotated[str | None, Field(max_length=63)] = None
    serviceId: Annotated[  # noqa: N815
        str | None, Field(max_length=42, description="Only for a service that moves in from elsewhere.")
    ] = None
    storage: Storage | None = None


class Database(Body):
    """The database of a sync source, by reference to Secrets that exist already."""

    urlSecretRef: SecretKey | None = None  # noqa: N815
    pooledUrlSecretRef: SecretKey | None = None  # noqa: N815
    poolSize: int | None = None  # noqa: N815


class NewSyncSource(NewService):
    """Postgres Sync. The database comes as `databaseUrl`, which is put into a Secret that lives and dies with the
    service, or as `database.urlSecretRef`."""

    name: ShortName = "db"
    databaseUrl: DatabaseUrl | None = None  # noqa: N815
    pooledDatabaseUrl: DatabaseUrl | None = None  # noqa: N815
    database: Database = Database()
    manualTablePublishing: bool | None = None  # noqa: N815
    deletionPolicy: Literal["Delete", "Orphan"] | None = None  # noqa: N815

    @model_validator(mode="after")
    def _one_source(self) -> NewSyncSource:
        if (self.databaseUrl is None) == (self.database.urlSecretRef is None):
            raise ValueError("give the database either as databaseUrl or as database.urlSecretRef")
        if self.pooledDatabaseUrl is not None and self.database.pooledUrlSecretRef is not None:
            raise ValueError("give the pooled database either as pooledDatabaseUrl or as database.pooledUrlSecretRef")
        if self.pooledDatabaseUrl is not None and self.databaseUrl is None:
            raise ValueError("pooledDatabaseUrl goes with databaseUrl; beside a urlSecretRef use pooledUrlSecretRef")
        return self


class NewStreamsService(NewService):
    """Durable streams."""

    name: ShortName = "streams"
    variant: Annotated[str | None, Field(max_length=63)] = None
