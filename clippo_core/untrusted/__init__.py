"""Bytes from outside become values here and nowhere else: every file that a stranger can hand in.

    json.py       json texts, and typed access to what they hold
    text.py       lines and whole texts, plain or gzip
    numbers.py    whole and real numbers in plain digits
    names.py      keys, tar member names, file names in annotations
    tar.py        where the members of an uncompressed tar lie
    arrays.py     .npy and .npz          tensors.py   .safetensors
    parquet.py    columns by name        pictures.py  pixels within a budget of memory
    limits.py     every bound, with its reason

Sizes, depth, encoding and types are checked before memory is taken. Nothing is unpickled or
executed, and no name becomes a path. Functions take bytes, open files or chunks, never an address
to open; `where` is the address for the sentence of an error, and `error` the class that is raised.
What is wrong with one record is returned as a problem, so that the reader can count the record and
go on; what is wrong with a file is raised. Whether a value makes sense is for the reader to judge.
"""
