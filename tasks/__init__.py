"""Tasks of the pipeline: one file is one kind of task (a node in the Flyte console). A task opens
its artifacts, makes one call into clippo_core, writes its deck, returns.
"""

from tasks.sentences import say_sentences

say_sentences()
