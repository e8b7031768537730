"""Your own files: encodings found by their bytes, pages and books as their reader sees them."""

import zipfile

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steel.corpus.sources import text_files
from steel.corpus.sources.readers import records
from steel.corpus.sources.text_files import TEXT_SUFFIXES, Bad, decode_text, html_text

CHINESE = "铁塔镇的早班电车从桥上缓缓开过，面包房的灯已经亮了。\n学生们背着书包在站台上等车。"
ENGLISH = "The harbour of the old town freezes in January.\n"


def read(path):
    return [record for _, record in records(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [CHINESE, ENGLISH, CHINESE + ENGLISH], ids=["zh", "en", "both"])
def test_the_encoding_of_a_text_is_found_by_its_bytes(text, encoding):
    assert decode_text(text.encode(encoding)) == text


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=30))
@settings(max_examples=50, deadline=None)
def test_gb18030_is_not_taken_for_utf_16(hanzi):
    text = hanzi + "，。"
    assert decode_text(text.encode("gb18030")) == text
    assert decode_text(text.encode("utf-8")) == text


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_make_a_reader_fail(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bytes")
    for suffix in TEXT_SUFFIXES:
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        [record] = read(path)
        assert isinstance(record, Bad) or set(record) == {"text"}


def test_a_page_is_read_as_its_reader_sees_it():
    page = """<html><head><title>t</title><style>p {}</style></head><body><nav>菜单</nav>
    <h1>标题</h1><p>第一
    段 <b>粗</b>字 &amp; a&lt;b</p>尾<ul><li>一</li><li>二</li></ul>
    <script>if (a < b) alert("x")</script><pre>for i:
  print(i)</pre></body></html>"""
    lines = html_text(page).split("\n")
    assert [line for line in lines if line] == (
        ["标题", "第一 段 粗字 & a<b", "尾", "一", "二", "for i:", "print(i)"]
    )


@given(st.text(max_size=60).map(lambda text: text.replace("\r", "")))
@settings(max_examples=60, deadline=None)
def test_escaped_text_comes_through_a_page_whole(text):
    import html

    assume("\0" not in text)
    seen = html_text(f"<p>{html.escape(text)}</p>")
    assert "".join(seen.split()) == "".join(text.split())


def docx(path, *paragraphs):
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = "".join(f"<w:p><w:r><w:t>{p}</w:t><w:tab/></w:r></w:p>" for p in paragraphs)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>',
        )


def epub(path, chapters, spine):
    opf = "http://www.idpf.org/2007/opf"
    items = "".join(f'<item id="c{i}" href="{href}"/>' for i, href in enumerate(spine))
    refs = "".join(f'<itemref idref="c{i}"/>' for i in range(len(spine)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "META-INF/container.xml",
            '<c><rootfiles><rootfile full-path="OPS/p.opf"/></rootfiles></c>',
        )
        archive.writestr(
            "OPS/p.opf",
            f'<package xmlns="{opf}"><manifest>{items}</manifest><spine>{refs}</spine></package>',
        )
        for name, text in chapters.items():
            archive.writestr(name, f"<html><body><p>{text}</p></body></html>")


def test_word_documents_and_books_give_their_text(tmp_path):
    docx(tmp_path / "a.docx", "第一段", "A &amp; B")
    assert read(tmp_path / "a.docx") == [{"text": "第一段\t\nA & B\t"}]
    epub(
        tmp_path / "b.epub",
        {"OPS/第 2.xhtml": "后", "OPS/1.xhtml": "先"},
        ["1.xhtml", "第%202.xhtml"],
    )
    assert read(tmp_path / "b.epub") == [{"text": "先\n\n后"}]


def test_a_chapter_outside_the_book_costs_itself(tmp_path):
    secret = tmp_path / "secret.xhtml"
    secret.write_text("<p>geheim</p>")
    epub(
        tmp_path / "b.epub",
        {"OPS/1.xhtml": "先", "../secret.xhtml": "滑"},
        ["1.xhtml", "../../secret.xhtml", f"{secret}", "gone.xhtml"],
    )
    assert read(tmp_path / "b.epub") == [
        Bad("archive member outside its folder"),
        Bad("archive member outside its folder"),
        Bad("chapter missing in .epub"),
        {"text": "先"},
    ]
    assert {p.name for p in tmp_path.iterdir()} == {"b.epub", "secret.xhtml"}


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files._Archive, "left", 10_000)
    docx(tmp_path / "bomb.docx", "0" * 1_000_000)
    size = (tmp_path / "bomb.docx").stat().st_size
    assert size < 10_000
    assert read(tmp_path / "bomb.docx") == [
        Bad("unpacks to more than 64 MiB, too much for one document", size)
    ]
    with zipfile.ZipFile(tmp_path / "wide.epub", "w", zipfile.ZIP_DEFLATED) as archive:
        entities = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
        laughs = f'<!DOCTYPE c [<!ENTITY a0 "ha">{entities}]><c>&a9;</c>'
        archive.writestr("META-INF/container.xml", laughs)
    [record] = read(tmp_path / "wide.epub")
    assert isinstance(record, Bad)


def test_a_pdf_gives_its_text_and_a_scan_says_so(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(72, 72)
    writer.write(tmp_path / "scan.pdf")
    assert [bad.reason for bad in read(tmp_path / "scan.pdf")] == ["pdf without text: a scan?"]
    content = b"BT /F1 12 Tf 10 50 Td (Bridges of the old town) Tj ET"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj%s\nendobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"xref\n0 6\n0000000000 65535 f \n%strailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF"
    (tmp_path / "text.pdf").write_bytes(data + end % (table, len(data)))
    assert read(tmp_path / "text.pdf") == [{"text": "Bridges of the old town"}]
