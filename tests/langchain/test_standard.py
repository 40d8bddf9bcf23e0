"""LangChain's own suites for retrievers and tools."""

from __future__ import annotations

import pytest

pytest.importorskip("langchain_tests")

from langchain_tests.integration_tests import RetrieversIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from lightmem_integrations.langchain import LightMemRetriever, lightmem_tools

QUESTION = "How are my animals called?"


@pytest.fixture
def animals(lightmem):
    lightmem.add([f"My {kind} is called {kind.title()}." for kind in ("cat", "dog", "bird", "snake")], user_id="ana")
    return lightmem


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _seeded(self, animals):
        self._lightmem = animals

    @property
    def retriever_constructor(self):
        return LightMemRetriever

    @property
    def retriever_constructor_params(self):
        return {"lightmem": self._lightmem, "user_id": "ana"}

    @property
    def retriever_query_example(self):
        return QUESTION


class Tool:
    """What both suites for tools ask, of the tool with this name and argument."""

    name = argument = ""

    @pytest.fixture(autouse=True)
    def _made(self, animals):
        self._tools = {tool.name: tool for tool in lightmem_tools(animals, user_id="ana", forget=True)}

    @property
    def tool_constructor(self):
        return self._tools[self.name]

    @property
    def tool_invoke_params_example(self):
        return {self.argument: QUESTION}


class Search(Tool):
    name, argument = "search_memory", "query"


class Save(Tool):
    name, argument = "save_memory", "text"


class Forget(Tool):
    name, argument = "forget_memory", "line"


class TestSearchUnit(Search, ToolsUnitTests):
    pass


class TestSearchIntegration(Search, ToolsIntegrationTests):
    pass


class TestSaveUnit(Save, ToolsUnitTests):
    pass


class TestSaveIntegration(Save, ToolsIntegrationTests):
    pass


class TestForgetUnit(Forget, ToolsUnitTests):
    pass


class TestForgetIntegration(Forget, ToolsIntegrationTests):
    pass
