"""The tests of tenants once more on PostgreSQL with row-level security, as the plain role that owns the tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.engines.postgres_roles import Owned
from tests.store.test_tenants import (
    both,
    test_a_cursor_of_another_tenant_is_refused,
    test_a_search_shows_only_its_tenants_words,
    test_a_token_of_another_tenant_is_a_new_one,
    test_an_unbound_store_of_a_tenanted_schema_refuses,
    test_no_write_reaches_another_tenant,
    test_objects_lie_below_their_tenant,
    test_one_key_names_another_record_for_each_tenant,
    test_sweeping_frees_the_claims_of_every_tenant,
    test_tenants_and_tokens_cannot_be_shifted_into_each_other,
    test_tenants_are_named_by_texts_and_only_where_there_are_any,
)

__all__ = [
    "both",
    "test_a_cursor_of_another_tenant_is_refused",
    "test_a_search_shows_only_its_tenants_words",
    "test_a_token_of_another_tenant_is_a_new_one",
    "test_an_unbound_store_of_a_tenanted_schema_refuses",
    "test_no_write_reaches_another_tenant",
    "test_objects_lie_below_their_tenant",
    "test_one_key_names_another_record_for_each_tenant",
    "test_sweeping_frees_the_claims_of_every_tenant",
    "test_tenants_and_tokens_cannot_be_shifted_into_each_other",
    "test_tenants_are_named_by_texts_and_only_where_there_are_any",
]


@pytest.fixture(params=["18", "15"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    owned = Owned(servers.postgres18() if request.param == "18" else servers.postgres15())
    yield owned.url(rls="on", pool="4", blobs=f"file:{tmp_path}/blobs")
    assert "0" == owned.superuser(
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND NOT relrowsecurity"
    )
    assert "notes" == owned.superuser("SELECT string_agg(tablename, ',') FROM pg_policies")
    owned.drop()
