"""What the clients ask for: small forms, as a small model fills in what is not bounded forever."""

from typing import Literal

from pydantic import BaseModel, Field

ASK_CITY = "Name a city and its country, as JSON."


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=12)
    country: Literal["Italy", "France"]


class Weather(BaseModel):
    """The weather in a city."""

    city: Literal["Rome", "Paris"]


WEATHER = {
    "name": "Weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
