"""What a recipe trains: a module `NAME.py` for each task, picked by the config's `task`.

Each has a class `Task`, a subclass of `recipes.common.task.Task`, which is the protocol.
"""
