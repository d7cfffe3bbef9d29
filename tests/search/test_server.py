"""The search server as a browser, and as somebody else's page, would ask it."""

from __future__ import annotations

import http.client
import json
import re
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from drawn import PX, draw, phrases, tiny_checkpoint

from clippo_core.cli import main as command_line
from clippo_core.embedder import Clippo
from clippo_core.rendering import Renderer
from clippo_core.search import page
from clippo_core.search.gallery import Gallery
from clippo_core.search.server import SearchServer

TEXTS = phrases(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty photos that are their captions' drawings, so that each caption finds its own."""
    root = tmp_path_factory.mktemp("gallery")
    model = tiny_checkpoint(root)
    for n, text in enumerate(TEXTS):
        draw(text, root / "photos" / f"{n:02d}.png")
    (root / "photos/07.txt").write_text("<script>alert(1)</script> & \u202eabc", encoding="utf-8")
    out = str(root / "photos.emb")
    assert command_line.main(["embed", model, "--images", str(root / "photos"), "--out", out]) == 0
    return root


@pytest.fixture(scope="module")
def server(folder):
    with SearchServer(Gallery(str(folder / "photos.emb"), device="cpu")) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def ask(server, path, method="GET", body=None, **headers):
    """(status, headers, content) of one request; a header None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    sent = {"Host": f"127.0.0.1:{server.server_port}"}
    if body is not None:
        sent["Content-Length"] = str(len(body))
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, dict(reply.getheaders()), content


def found(server, path, **more):
    status, _, content = ask(server, path, **more)
    assert status == 200, content
    return json.loads(content)


# --- answers -------------------------------------------------------------------------------------


def test_a_text_finds_its_photo_and_a_photo_itself(server, folder):
    for n in (0, 7, 19):
        hits = found(server, f"/text?k=5&text={quote(TEXTS[n])}")["hits"]
        assert len(hits) == 5 and hits[0]["row"] == n and hits[0]["name"] == f"{n:02d}.png"
        assert hits[0]["cosine"] == pytest.approx(1, abs=1e-4)
        assert [hit["cosine"] for hit in hits] == sorted(hit["cosine"] for hit in hits)[::-1]
        by_row = found(server, f"/row?k=5&row={n}")
        assert [hit["row"] for hit in by_row["hits"]] == [hit["row"] for hit in hits]
        assert by_row["seen"].startswith("data:image/png;base64,")
        assert by_row["note"] == f"{n:02d}.png: squashed to {PX} × {PX} px."
        data = (folder / "photos" / f"{n:02d}.png").read_bytes()
        dropped = found(server, "/picture?k=99", method="POST", body=data)
        assert dropped["hits"][0]["row"] == n and len(dropped["hits"]) == 20
    first = found(server, "/first?k=3")["hits"]
    assert [hit["row"] for hit in first] == [0, 1, 2] and "cosine" not in first[0]
    status, headers, content = ask(server, "/photo?row=3")
    assert status == 200 and headers["Content-Type"] == "image/jpeg" and content[:2] == b"\xff\xd8"


def test_the_query_is_drawn_as_the_tower_reads_it(server):
    import base64
    import io

    from PIL import Image

    for text in ("七十", "سبعون", "three lines of a text, and more"):
        drawn = found(server, f"/draw?text={quote(text)}")
        pixels = Image.open(io.BytesIO(base64.b64decode(drawn["seen"].partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(pixels), Renderer(PX).render([text])[0])
    assert drawn["note"].startswith("48 × 48 px, 3 of 3 rows used. ")
    assert "is not seen: " in drawn["note"]
    assert (
        "drawn as a box: 1 character." in found(server, f"/draw?text={quote(chr(0xF0000))}")["note"]
    )


def test_the_page_holds_names_as_data_and_nothing_from_elsewhere(server):
    status, headers, content = ask(server, "/")
    text = content.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]{22})'", policy)
    assert nonce and text.count(f'nonce="{nonce[1]}"') == 2 and "default-src 'none'" in policy
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not re.findall(r"(?:https?:)?//[a-z]", text.replace("// ", ""))
    assert "@" not in re.sub(r"@media", "", text), "a mark of the template was not filled in"
    assert headers["X-Content-Type-Options"] == "nosniff"


# --- what is refused -----------------------------------------------------------------------------


def test_strangers_are_refused(server):
    port = server.server_port
    for headers, status in (
        ({}, 200),
        ({"Host": f"localhost:{port}"}, 200),
        ({"Host": None}, 403),
        ({"Host": f"evil.example:{port}"}, 403),  # a name that was made to point here
        ({"Host": "127.0.0.1"}, 403),
        ({"Origin": f"http://127.0.0.1:{port}"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),  # another port of this machine
    ):
        assert ask(server, "/photo?row=0", **headers)[0] == status, headers
        posted = ask(server, "/picture?k=1", method="POST", body=b"x", **headers)
        assert posted[0] == (400 if status == 200 else 403), headers
    assert ask(server, "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link to it may be followed


def test_a_request_names_rows_and_no_path(server):
    for path, status in (
        ("/photo?row=20", 400),
        ("/photo?row=-1", 400),
        ("/photo?row=../../etc/passwd", 400),
        ("/photo?row=1&row=2", 400),
        ("/photo?row=%31_0", 400),
        ("/photo", 400),
        ("/photos/00.png", 404),
        ("/../model.safetensors", 404),
        ("//etc/passwd", 404),
        ("/picture?k=1", 404),  # it is posted
        ("/text?text=a&k=x", 400),
        ("/text?k=1", 400),
        ("/text?k=1&text=%ff", 400),
        ("/text?k=1&text=%ed%a0%80", 400),
        ("/text?k=1&text=" + "a" * 2001, 400),
        ("/draw?text=" + "a" * 2001, 400),
        ("/text?k=1&text=" + quote("七" * 2000), 200),
        ("/text?k=1&text=", 200),
        ("/text?k=1000000000&text=a", 200),
    ):
        got, headers, content = ask(server, path)
        assert got == status, (path, content)
        if status != 200:
            assert json.loads(content)["error"].endswith("."), content
            assert b"passwd" not in content or b"no whole number" in content
    assert ask(server, "/", method="PUT")[0] == 501


def test_dropped_files_are_bounded_and_decoded_with_care(server, folder):
    picture = (folder / "photos/00.png").read_bytes()
    for body, headers, status, words in (
        (b"", {}, 400, "it is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 400, "no readable picture"),
        (picture[:100], {}, 400, "damaged or cut short"),
        (b"x", {"Content_Length": str(page.PICTURE_BYTES + 1)}, 413, "at most 33,554,432 bytes"),
        (b"x", {"Content_Length": "9" * 400}, 413, "at most"),
        (b"x", {"Content_Length": None}, 411, "how long"),
        (b"x", {"Content_Length": "-1"}, 411, "how long"),
        (b"1\r\nx\r\n0\r\n\r\n", {"Transfer_Encoding": "chunked"}, 411, "how long"),
    ):
        got, reply, content = ask(server, "/picture?k=1", method="POST", body=body, **headers)
        assert got == status and words in json.loads(content)["error"], (body[:20], content)
        assert reply["Connection"] == "close"
    found(server, "/picture?k=1", method="POST", body=picture)


def test_a_photo_that_is_gone_costs_only_itself(server, folder):
    path = folder / "photos/11.png"
    data = path.read_bytes()
    path.unlink()
    try:
        status, _, content = ask(server, "/photo?row=11")
        assert status == 400 and "11.png: it cannot be read" in json.loads(content)["error"]
        assert ask(server, "/photo?row=12")[0] == 200
    finally:
        path.write_bytes(data)


# --- in the shell --------------------------------------------------------------------------------


def test_the_shell_says_the_same(folder, capsys):
    out = str(folder / "photos.emb")
    assert command_line.main(["search", out, TEXTS[3], TEXTS[4], "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0] == f"{TEXTS[3]}:" and lines[3] == f"{TEXTS[4]}:"
    assert lines[1].split("\t") == ["1.0000", str(folder / "photos/03.png")]
    image = str(folder / "photos/07.png")
    assert command_line.main(["search", out, "--image", image, "--top", "1"]) == 0
    shown = capsys.readouterr().out.strip().split("\t")
    assert shown[1] == image and shown[2] == "<script>alert(1)</script> & \\u202eabc"


def test_what_cannot_be_searched_is_said(folder, tmp_path, capsys):
    out = str(folder / "photos.emb")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    model = str(next(folder.glob("tower-0*")))
    text_folder = str(tmp_path / "texts.emb")
    assert command_line.main(["embed", model, "--texts", str(texts), "--out", text_folder]) == 0
    other = tiny_checkpoint(tmp_path, seed=1)
    capsys.readouterr()
    for arguments, sentence in (
        ([out], "there is no question; give a text"),
        ([out, "a", "--top", "0"], "--top is 0"),
        ([str(tmp_path), "a"], "it holds no embeddings (no embedding.json); make them with"),
        ([out, "a", "--model", other], "was embedded by another model than"),
        ([text_folder, "--page"], "it holds texts alone, and the page shows pictures"),
        ([out, "--page", "--port", "99999"], "port 99999 cannot be used"),
        ([out, "--image", str(texts)], "it is no readable picture"),
    ):
        assert command_line.main(["search", *arguments, "--device", "cpu"]) == 2, arguments
        assert sentence in capsys.readouterr().err, arguments
    assert command_line.main(["search", text_folder, TEXTS[5], "--top", "1"]) == 0
    assert capsys.readouterr().out == f"1.0000\t{TEXTS[5]}\n"


def test_a_small_set_becomes_one_file(folder, tmp_path, capsys, monkeypatch):
    out, target = str(folder / "photos.emb"), tmp_path / "page.html"
    assert command_line.main(["search", out, TEXTS[2], "--html", str(target)]) == 0
    assert f"{target}: 20 pictures" in capsys.readouterr().out
    text = target.read_text(encoding="utf-8")
    state = json.loads(re.search(r'id="state">(.*?)</script>', text, re.S)[1])
    assert state["asked"][0]["hits"][0][0] == 2 and len(state["photos"]) == 20
    assert state["photos"][7]["caption"].startswith("<script>") and "<script>alert" not in text
    assert state["photos"][4]["near"][0] == [4, 1.0]
    monkeypatch.setattr(page, "MOST_STATIC", 19)
    assert command_line.main(["search", out, "--html", str(target)]) == 2
    assert "20 pictures are too many for one file" in capsys.readouterr().err


def test_the_model_is_the_one_that_made_the_folder(folder):
    gallery = Gallery(str(folder / "photos.emb"), device="cpu")
    assert isinstance(gallery.model, Clippo) and len(gallery) == 20
    with pytest.raises(IndexError):
        gallery.by_row(20, 1)
    assert Path(gallery.facts.model).is_absolute()
