"""The entity cache: every name finds its entity, until it has to be fetched again."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import palaver
from palaver.blueprints.baller import Baller, Retention, patterns
from palaver.blueprints.baller.schema import EntityType
from palaver.errors import Validation
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import found


@pytest.mark.parametrize(
    "name",
    [
        "FC Bayern München",
        "fc bayern munchen",
        "ＦＣ　Ｂａｙｅｒｎ　Ｍüｎｃｈｅｎ",
        "F.C. Bayern-Mu\u0308nchen",
        "Bayern Munich",
        "Бавария",
        "БАВАРИЯ",
        "バイエルン・ミュンヘン",
        "ﾊﾞｲｴﾙﾝ･ﾐｭﾝﾍﾝ",
        "بايرن ميونخ",
    ],
)
async def test_a_team_is_found_by_every_name_in_every_spelling(baller: Baller, name: str) -> None:
    aliases = ["Bayern Munich", "Бавария", "バイエルン・ミュンヘン", "بايرن ميونخ"]
    await baller.entities.put("team", "157", "FC Bayern München", aliases=aliases)
    team = await baller.entities.resolve("team", name)
    assert team is not None
    assert ("157", aliases) == (team.entity_id, team.aliases)


async def test_a_team_and_a_player_of_one_name_are_told_apart(baller: Baller) -> None:
    await baller.entities.put("team", "1", "Santos")
    await baller.entities.put("player", "1", "Santos")
    for kind in ("team", "player"):
        found_ = await baller.entities.look_up(kind, "SANTOS")
        assert [(kind, "1")] == [(entity.entity_type, entity.entity_id) for entity in found_]
        [named] = await found(baller, patterns.entities_named(kind, "santos"))
        assert kind == named.entity_type


async def test_a_shared_alias_finds_both_and_resolves_to_none(baller: Baller) -> None:
    await baller.entities.put("team", "1", "Rangers FC", aliases=["Rangers"])
    await baller.entities.put("team", "2", "Queens Park Rangers", aliases=["Rangers", "QPR"])
    assert ["1", "2"] == sorted(team.entity_id for team in await baller.entities.look_up("team", "rangers"))
    assert await baller.entities.resolve("team", "rangers") is None
    await baller.entities.put("team", "3", "Rangers")
    own = await baller.entities.resolve("team", "rangers")
    assert own is not None
    assert "3" == own.entity_id


async def test_a_name_given_up_finds_nothing(baller: Baller) -> None:
    await baller.entities.put("team", "1", "Newton Heath", aliases=["Heathens"])
    await baller.entities.put("team", "1", "Manchester United", aliases=["Man United"])
    assert [] == [*await baller.entities.look_up("team", "heathens"), *await baller.entities.look_up("team", "Newton Heath")]
    assert {"manchester united", "man united"} == {row.normalized_alias for row in await found(baller, patterns.aliases_of("1", "team"))}


async def test_each_kind_is_fetched_again_in_its_own_time(baller: Baller, clock: palaver.ManualClock) -> None:
    kinds: tuple[EntityType, ...] = ("competition", "player", "team")
    for kind in kinds:
        await baller.entities.put(kind, "1", "One", aliases=["Uno"])

    async def cached() -> list[str]:
        return [kind for kind in kinds if await baller.entities.resolve(kind, "uno")]

    seen = []
    for day in (0.9, 1.1, 3.1, 7.1):
        clock.advance(palaver.days(day) - (clock.now() - palaver.ManualClock().now()))
        seen.append(await cached())
    assert [["competition", "player", "team"], ["player", "team"], ["team"], []] == seen
    await baller.store.sweep()
    assert [] == await found(baller, patterns.names_of("team", "uno"))


async def test_fetching_again_extends_the_names_too(baller: Baller, clock: palaver.ManualClock) -> None:
    await baller.entities.put("team", "1", "One", aliases=["Uno"])
    clock.advance(palaver.days(6))
    await baller.entities.put("team", "1", "One", aliases=["Uno"], metadata={"ground": "Here"})
    clock.advance(palaver.days(6))
    team = await baller.entities.resolve("team", "uno")
    assert team is not None
    assert {"ground": "Here"} == team.metadata


async def test_cache_times_are_a_setting(opened: Opened, clock: palaver.ManualClock) -> None:
    async with opened(retention=Retention(teams=palaver.hours(1))) as baller:
        await baller.entities.put("team", "1", "One")
        clock.advance(palaver.hours(2))
        assert await baller.entities.get("team", "1") is None


async def test_forgetting_an_entity_forgets_its_names(baller: Baller) -> None:
    await baller.entities.put("team", "1", "One", aliases=["Uno"])
    await baller.entities.forget("team", "1")
    await baller.store.sweep()
    assert [] == await found(baller, patterns.aliases_of("1", "team"))
    assert await baller.entities.get("team", "1") is None


async def test_teams_put_at_the_same_time_are_all_found(baller: Baller) -> None:
    await asyncio.gather(*(baller.entities.put("team", f"{n}", f"Team {n}", aliases=[f"T{n}", f"{n}ers"]) for n in range(40)))
    for number in range(40):
        team = await baller.entities.resolve("team", f"{number}ERS")
        assert team is not None
        assert f"{number}" == team.entity_id
    assert 40 == len(await found(baller, patterns.entities_of_type("team")))


async def test_an_entity_of_too_many_names_is_refused(baller: Baller) -> None:
    with pytest.raises(Validation):
        await baller.entities.put("team", "1", "One", aliases=[f"Alias {number}" for number in range(100)])


async def test_writes_of_one_type_spread_over_partitions_and_shards(baller: Baller) -> None:
    await asyncio.gather(*(baller.entities.put("team", f"{n}", f"Team {n}") for n in range(200)))
    table = baller.store.schema.tables["baller-entity-cache"].table
    records = (await baller.store.core.records.scan(table.name, after=None, limit=500)).records
    assert 200 == len({record[table.partition[0]] for record in records})
    shards = Counter(record["_by_type_shard"] for record in records)
    assert 8 == len(shards)
    assert max(shards.values()) <= 2 * 200 / 8


async def test_one_team_fetched_by_many_at_once_is_stored_and_found(baller: Baller) -> None:
    put = await asyncio.gather(*(baller.entities.put("team", "1", "Arsenal FC", aliases=["Arsenal"]) for _ in range(32)))
    assert {"1"} == {team.entity_id for team in put}
    assert await baller.entities.resolve("team", "arsenal") in put


async def test_an_unknown_type_is_refused_by_name(baller: Baller) -> None:
    with pytest.raises(Validation, match="entity_type"):
        await baller.entities.put("club", "1", "Arsenal")  # type: ignore[arg-type]


async def test_nothing_is_called_by_an_empty_name(baller: Baller) -> None:
    await baller.entities.put("team", "1", "Arsenal")
    assert [] == await baller.entities.look_up("team", "")
    assert await baller.entities.resolve("team", "") is None
