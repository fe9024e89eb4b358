"""What a channel's configuration refuses says what to give, and repeats nothing of what was given."""

from __future__ import annotations

from typing import Any

import pytest

from palaver.blueprints.simple_agent import SimpleAgent
from palaver.errors import Validation


async def test_the_first_time_a_channel_needs_a_model_and_later_it_does_not(agent: SimpleAgent) -> None:
    with pytest.raises(Validation, match=r"first time needs a default_model.*later it may be left out") as refused:
        await agent.channels.configure("discord", settings={"slash": True})
    assert "default_model" == refused.value.context["field"]
    assert None is await agent.channels.config("discord")
    await agent.channels.configure("discord", default_model="m")
    assert "m" == (await agent.channels.configure("discord", settings={"slash": True})).default_model


@pytest.mark.parametrize("given", ["hunter2", ["hunter2"], {7: "hunter2"}, {"token": 7}])
@pytest.mark.parametrize("again", [False, True])
async def test_credentials_that_are_no_mapping_are_refused_in_words_that_do_not_repeat_them(
    agent: SimpleAgent, given: Any, again: bool
) -> None:
    if again:
        await agent.channels.configure("discord", default_model="m", credentials={"token": "before"})
    with pytest.raises(Validation, match=r"[Cc]redentials") as refused:
        await agent.channels.configure("discord", default_model="n", credentials=given)
    assert "hunter2" not in str(refused.value)
    assert ("m" if again else None) == getattr(await agent.channels.config("discord"), "default_model", None)
    if again:
        assert {"token": "before"} == await agent.channels.credentials("discord")


@pytest.mark.parametrize("given", ["text", [("a", 1)], 5])
async def test_settings_that_are_no_mapping_are_refused(agent: SimpleAgent, given: Any) -> None:
    with pytest.raises(Validation, match=r"Settings of a channel are values by their names. Write settings="):
        await agent.channels.configure("discord", default_model="m", settings=given)
