"""A chat service: many users at once, one engine, and answers even while memory is down.

    request (user, thread, words) ── LightMemMemory of this user and thread ──> chain ──> answer

Prerequisites: pip install "lightmem-integrations[offline,langchain-classic]"
Environment: LIGHTMEM_MODEL names a chat model for LangChain's init_chat_model, such as openai:gpt-4o-mini;
without it the answers are scripted and nothing leaves this machine.
"""

import asyncio
import os
import warnings

from langchain_classic.chains import ConversationChain
from langchain_core.language_models import BaseChatModel, FakeListChatModel

from lightmem_integrations import LightMem
from lightmem_integrations.langchain import LightMemMemory, failures_of

warnings.filterwarnings("ignore", category=DeprecationWarning)  # the chain itself is deprecated


def chat_model(*answers: str) -> BaseChatModel:
    """A model by name, or one that says these answers."""
    if name := os.environ.get("LIGHTMEM_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name)
    return FakeListChatModel(responses=list(answers))


class ChatService:
    """Answers for any number of users; safe to call concurrently.

    Args:
        lightmem: one engine for the whole process.
        model: any chat model.
    """

    def __init__(self, lightmem: LightMem, model: BaseChatModel) -> None:
        self._lightmem, self._model = lightmem, model

    async def answer(self, words: str, *, user_id: str, thread_id: str) -> str:
        """One turn. ``user_id`` is whom the server authenticated, not what the client says."""
        chain = ConversationChain(llm=self._model, memory=self._memory(user_id, thread_id))
        return str((await chain.ainvoke({"input": words}))["response"])

    async def forget_thread(self, *, user_id: str, thread_id: str) -> None:
        """Remove one conversation for good."""
        await self._memory(user_id, thread_id).aclear()

    def _memory(self, user_id: str, thread_id: str) -> LightMemMemory:
        # Cheap: it holds settings only. The engine holds the rest.
        return LightMemMemory(lightmem=self._lightmem, user_id=user_id, session_id=thread_id, recent_turns=6)


async def serve() -> None:
    """Twenty users at once, then an outage."""
    with LightMem(":memory:") as lightmem:
        service = ChatService(lightmem, chat_model("I see."))
        users = [f"user-{n}" for n in range(20)]
        await asyncio.gather(
            *(service.answer(f"My locker is number {n}.", user_id=user, thread_id="t1") for n, user in enumerate(users))
        )
        question = "Which locker is mine?"
        await asyncio.gather(*(service.answer(question, user_id=user, thread_id="t2") for user in users))
        print(lightmem.context(question, user_id="user-7", session_id="t1", max_tokens=80).text)

        await service.forget_thread(user_id="user-7", thread_id="t1")
        print("after forgetting:", lightmem.list(user_id="user-7", session_id="t1"))

    # The engine is closed now, as it would be during an outage: the user gets an answer all the same.
    print("answer:", await service.answer("Are you there?", user_id="user-7", thread_id="t2"))
    print(failures_of(lightmem))


if __name__ == "__main__":
    asyncio.run(serve())
