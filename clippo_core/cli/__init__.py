"""The command `clippo`: one module per command, or per group of them, each with

    add(names)      name it, its arguments, and examples that can be pasted
    NAME(chosen)    do it, in a few lines over the rest of the package

`main.py` lists them and turns the package's errors into one sentence; `options.py` holds what
several commands share. Training and evaluation of whole runs are Flyte workflows
(`pyflyte run workflows …`).
"""
