"""A collection of pictures or texts of one's own: embedded, indexed, searched.

    inputs ─▶ embedding ─▶ a folder (`collection`) ─▶ index ─▶ gallery ─▶ shell, page

    inputs.py       what is to be embedded: folders, tars, lists, lines of text
    embedding.py    through the tower into shards, and on from where it was stopped
    collection.py   the folder that holds them, in clip-retrieval's layout
    index.py        nearest neighbours, exact or by usearch or faiss, and their recall
    gallery.py      questions to a folder: by text, by picture, by one of its own pictures
    page.py, server.py   the same in a browser, on this machine only

It trains nothing and knows no benchmark; `evaluate/` ranks those.
"""
