"""What the tokens of an answer become: text and reasoning, and the form that they must follow."""
