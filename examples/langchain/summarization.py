"""Summaries of a long conversation without a language model, in SummarizationMiddleware.

    messages beyond the limit ── topics ── their most telling sentences ──> one summary message

Prerequisites: pip install "lightmem-integrations[offline,agents]"
Environment: LIGHTMEM_MODEL names a chat model for LangChain's init_chat_model, such as openai:gpt-4o-mini;
without it the answers are scripted and nothing leaves this machine.
"""

import os

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.language_models import BaseChatModel, FakeListChatModel

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMiddleware, lightmem_summarizer

CONVERSATION = [
    ("user", "My sister Noor moved to Lisbon in March and rents a flat in Alfama."),
    ("assistant", "Alfama is the oldest quarter of Lisbon. How does Noor like it?"),
    ("user", "She likes the view over the river Tejo, but the stairs are steep."),
    ("assistant", "Many houses there have steep stairs and no lift."),
    ("user", "Which flour do I need for a sourdough bread with 70% hydration?"),
    ("assistant", "Take 500 g of wheat flour type 550 and 350 g of water."),
    ("user", "I bake it at 250 degrees for 45 minutes then."),
    ("assistant", "Bake it in a closed pot for 25 minutes first, then without the lid."),
]


def chat_model(*answers: str) -> BaseChatModel:
    """A model by name, or one that says these answers."""
    if name := os.environ.get("LIGHTMEM_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name)
    return FakeListChatModel(responses=list(answers))


def main() -> None:
    """Let an agent's history grow past its limit."""
    with LightMem(":memory:") as lightmem:
        model = chat_model("In Alfama, in Lisbon.")
        agent = create_agent(
            model,
            middleware=[
                SummarizationMiddleware(
                    model,
                    trigger=("messages", 8),
                    keep=("messages", 2),
                    summarizer=lightmem_summarizer(lightmem, max_tokens=200),
                ),
                LightMemMiddleware(lightmem, user_id="ana"),  # what the summary leaves out is recalled on demand
            ],
        )
        answer = agent.invoke({"messages": [*CONVERSATION, ("user", "Where does Noor live?")]})
        for message in answer["messages"]:
            print(f"{message.type}: {message.text}\n")


if __name__ == "__main__":
    main()
