"""The paper's experiment and more of it: what is run, how it is kept, and what is drawn of it."""
