"""How DuckDB reaches the lake's files where they lie in object storage that speaks S3's API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

AWS = "amazonaws.com"


@dataclass(frozen=True)
class ObjectStorage:
    """Where the bucket is, and with which key it is read and written.

    What is empty is taken from the environment, as AWS's own tools do: AWS_REGION,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN.

    Args:
        endpoint_url: of another store than AWS, `https://host:port`.
        region: such as `eu-central-1`.
        access_key_id: the key's name.
        secret_access_key: the key.
    """

    endpoint_url: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)

    def options(self) -> dict[str, str]:
        """The same in DuckDB's words, without the key."""
        found = {"region": self.region} if self.region else {}
        if self.endpoint_url:
            endpoint = urlsplit(self.endpoint_url)
            found["endpoint"] = endpoint.netloc
            found["use_ssl"] = str(endpoint.scheme != "http").lower()
            if not endpoint.netloc.endswith(AWS):
                found["url_style"] = "path"  # others rarely have a host name for each bucket
        return found

    def open(self, connection: DuckDBPyConnection, data_path: str) -> None:
        """Let `connection`'s database read and write what lies under `data_path`."""
        from duckdb_extensions import import_extension

        import_extension("httpfs", con=connection)
        connection.load_extension("httpfs")
        options = self.options() | {"scope": data_path}
        if self.access_key_id:
            options |= {"key_id": self.access_key_id, "secret": self.secret_access_key}
        connection.execute(secret(options))


def secret(options: dict[str, str]) -> str:
    """The statement that makes DuckDB use these options for what they are the scope of."""
    quoted = {name: value.replace("'", "''") for name, value in options.items()}
    told = "".join(f", {name} '{value}'" for name, value in quoted.items())
    return f"create or replace secret lake (type s3{told})"
