"""Where the row and column means of Adafactor lie, and which slices of parameters they are taken
over: `adafactor.py` says what they are.

    parameter [4, 6]   row means [4]    ████████▓▓▓▓▓▓▓▓▒▒▒▒▒▒▒▒   a rank's fragment, or a piece of
                       column means [6]         ▓▓▓▓▓▓▓▓           it, begins and ends anywhere
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clippo_core.optim.sharded import Fragment


def factored_dims(view: tuple[int, ...], min_dim_size_to_factor: int) -> tuple[int, int] | None:
    """Indices, in order, of the two largest dims; None where the smaller of them is below the
    limit. optax's rule.
    """
    if len(view) < 2:
        return None
    *_, second, first = sorted(range(len(view)), key=lambda i: view[i])
    return (
        (min(first, second), max(first, second)) if view[second] >= min_dim_size_to_factor else None
    )


@dataclass
class Factors:
    """Row and column means of all parameters of one view, which is seen as [before, R, between, C,
    after]; in `sums` from `begin`.
    """

    view: tuple[int, int, int, int, int]
    names: list[str]
    begin: int = 0

    @property
    def length(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes())

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        b, r, m, c, t = self.view
        return (len(self.names), b, r, m, 1, t), (len(self.names), b, 1, m, c, t)

    def split(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """This view's rows [k, b, R, m, 1, t] and columns [k, b, 1, m, C, t] within a tensor of all
        views' sums.
        """
        rows, columns = self.shapes()
        part = sums[self.begin : self.begin + self.length].split(
            [math.prod(rows), math.prod(columns)]
        )
        return part[0].view(rows), part[1].view(columns)

    def inverse_counts(self, like: Tensor) -> Tensor:
        """What makes means of the sums: 1/C for rows, 1/R for columns."""
        rows, columns = self.shapes()
        return torch.cat(
            [
                like.new_full((math.prod(s),), 1 / n)
                for s, n in ((rows, self.view[3]), (columns, self.view[1]))
            ]
        )

    def blocks(self, fragments: list[Fragment], index: int, together: bool) -> list[Block]:
        """The fragments of this view; with `together`, neighbours of equal position in one."""
        place = {name: i for i, name in enumerate(self.names)}
        mine = sorted(
            (f for f in fragments if f.name in place),
            key=lambda f: (f.start, f.length, place[f.name]),
        )
        blocks: list[Block] = []
        for fragment in mine:
            last = blocks[-1] if blocks and together else None
            at = place[fragment.name]
            if (
                last
                and (last.fragments[0].start, last.fragments[0].length)
                == (fragment.start, fragment.length)
                and last.stop == at
            ):
                last.fragments.append(fragment)
            else:
                blocks.append(Block(index, self.view, at, [fragment]))
        return blocks


@dataclass
class Block:
    """Slices at the same position of k consecutive parameters of one view, handled piece by piece:
    in one piece, or (`cut`) in pieces of whole rows.
    """

    factors: int
    view: tuple[int, int, int, int, int]
    first: int
    fragments: list[Fragment]
    pieces: list[Piece] = field(default_factory=list)

    @property
    def stop(self) -> int:
        return self.first + len(self.fragments)

    def cut(self, elements: int) -> None:
        """Make the pieces, of about `elements` at most; 0 = one piece."""
        _, r, m, c, t = self.view
        row, begin = m * c * t, self.fragments[0].start
        end = begin + self.fragments[0].length
        n, at = max(1, elements // row), begin
        while at < end:
            stop, number = end, at // row
            if elements and at % row:
                stop = (number + 1) * row  # the rest of a row
            elif elements and end - at < row:
                stop = end  # the begin of one
            elif elements:
                rows = min(n, end // row - number)
                if number % r == 0 and rows >= r:
                    rows -= rows % r  # whole matrices
                else:
                    rows = min(rows, r - number % r)
                stop = (number + rows) * row
            stop = min(stop, end)
            self.pieces.append(Piece(self.view, begin, at, stop))
            at = stop

    def add_sums(self, gradient: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Sums of squares of the k slices in `gradient`, into their places of `rows` and
        `columns`.
        """
        gradient = gradient.view(len(self.fragments), -1)
        for piece in self.pieces:
            mine = gradient[:, piece.offset : piece.offset + piece.length]
            squares = piece.padded(mine).square()
            rows[self.first : self.stop, piece.matrices, piece.rows] = squares.sum(4, True)
            columns[self.first : self.stop, piece.matrices] += squares.sum(2, True)


class Piece:
    """Elements start .. stop of each of a block's k parameters: handled as one tensor [k, b', R',
    m, C, t].

    A piece that does not begin and end with a row is padded with zeros until it does (or, when it
    spans several matrices, until their ends): zeros add nothing to sums of squares, and the update
    of padding is thrown away.
    """

    def __init__(
        self, view: tuple[int, int, int, int, int], begin: int, start: int, stop: int
    ) -> None:
        _, r, m, c, t = view
        row = m * c * t
        self.offset, self.length = start - begin, stop - start
        low, high = start // row, -(-stop // row)
        self.matrices = slice(low // r, -(-high // r))
        if self.matrices.stop - self.matrices.start == 1:
            self.rows = slice(low % r, low % r + high - low)
        else:
            low, high, self.rows = self.matrices.start * r, self.matrices.stop * r, slice(0, r)
        self.padding = (start - low * row, high * row - stop)
        self.shape = (
            self.matrices.stop - self.matrices.start,
            self.rows.stop - self.rows.start,
            m,
            c,
            t,
        )

    def scaled(
        self, gradient: Tensor, block: Block, row_roots: Tensor, column_roots: Tensor
    ) -> Tensor:
        """`gradient`, [k, length], times both inverse roots, as a new one."""
        wide = self.padded(gradient) * row_roots[block.first : block.stop, self.matrices, self.rows]
        wide.mul_(column_roots[block.first : block.stop, self.matrices])
        flat = wide.view(len(gradient), -1)
        return flat[:, self.padding[0] : self.padding[0] + self.length].contiguous()

    def padded(self, gradient: Tensor) -> Tensor:
        """[k, length] -> [k, b', R', m, C, t]."""
        if any(self.padding):
            gradient = torch.nn.functional.pad(gradient, self.padding)
        return gradient.view(len(gradient), *self.shape)


def lay_out(
    dims: dict[str, tuple[int, int] | None], views: dict[str, tuple[int, ...]]
) -> list[Factors]:
    """One Factors for each different factored view, in the order of the parameters: the same on
    every rank.
    """
    found: dict[tuple[int, ...], Factors] = {}
    for name, pair in dims.items():
        if pair is not None:
            v, (i, j) = views[name], pair
            key = (math.prod(v[:i]), v[i], math.prod(v[i + 1 : j]), v[j], math.prod(v[j + 1 :]))
            found.setdefault(key, Factors(key, [])).names.append(name)
    begin = 0
    for factors in found.values():
        factors.begin, begin = begin, begin + factors.length
    return list(found.values())


def inverse_roots(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors whose product is 1 / sqrt(v)."""
    return rows.rsqrt(), columns.rsqrt() * rows.mean(dim=2, keepdim=True).sqrt()
