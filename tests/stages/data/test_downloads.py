"""Downloads, from a server on this machine: whole and with the right checksum, or told and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from stages.data import registry
from tests.stages.data import samples
from tests.stages.data.samples import PUBLISHED, pair, settings

Bad = Callable[[str, str], None]


@contextmanager
def served(contents: dict[str, bytes], cut: bool = False) -> Iterator[str]:
    """Serves files on this machine; yields the address. If `cut`, half of each is sent under the length of all."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if self.path[1:] in contents else 404)
            self.send_header("Content-Length", str(len(contents.get(self.path[1:], b""))))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            content = contents.get(self.path[1:], b"")
            self.wfile.write(content[: len(content) // 2] if cut else content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def contents_of(source: str, folder: Path) -> dict[str, bytes]:
    if source == "pneumonia_mnist":
        path = samples.write_npz(folder, samples.npz_arrays())
        return {path.name: path.read_bytes()}
    return samples.archives(source, *pair(source))


@pytest.mark.parametrize("source", [*PUBLISHED, "pneumonia_mnist"])
def test_an_empty_folder_gets_the_archives(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = contents_of(source, tmp_path / "made")
    with served(contents) as address:
        samples.expect(source, contents, monkeypatch, address)
        folder = tmp_path / "new" / "folder"
        found = registry.READERS[source](settings(source, folder), folder)
    assert len(found.test) == samples.TEST
    assert samples.tree(folder) == contents
    assert found.source in ("PneumoniaMNIST", *(data.name for data in registry.PUBLISHED.values()))


@pytest.mark.parametrize("source", [*PUBLISHED, "pneumonia_mnist"])
def test_half_a_download_is_told_and_removed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    contents = contents_of(source, tmp_path / "made")
    name, content = next(iter(contents.items()))
    with served(contents, cut=True) as address:
        samples.expect(source, contents, monkeypatch, address)
        path = tmp_path / "files" / name
        bad(source, f"^{path}: {len(content) // 2} bytes with the MD5 .*expected .*removed")


def test_another_checksum_of_a_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad) -> None:
    contents = samples.archives("cifar10", *pair("cifar10"))
    with served({name: content + b"\0" for name, content in contents.items()}) as address:
        samples.expect("cifar10", contents, monkeypatch, address)
        bad("cifar10", "bytes with the MD5 .*or the file was changed, and was removed")


@pytest.mark.parametrize("source", [*PUBLISHED, "pneumonia_mnist"])
def test_a_failed_download_says_what_to_do(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    with served({}) as address:
        samples.expect(source, {}, monkeypatch, address)
        otherwise = f"put .* there,? or set DNM_{source.upper()} to"
        bad(source, f"no such file, and {address}.* cannot be downloaded .*404.*{otherwise}")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path, bad: Bad) -> None:
    (tmp_path / "files").write_text("no folder")
    bad("cifar10", f"^{tmp_path / 'files'}/cifar-10-binary.tar.gz: no such file, and .* cannot be downloaded .*exists")


def test_addresses_and_checksums_are_those_of_torchvision() -> None:
    from torchvision import datasets

    fashion, stl = datasets.FashionMNIST, datasets.STL10
    data = registry.PUBLISHED["fashion_mnist"]
    assert [(archive.name, archive.md5) for archive in data.archives] == fashion.resources
    assert [archive.url for archive in data.archives] == [fashion.mirrors[0] + name for name, _ in fashion.resources]
    assert list(data.class_names) == fashion.classes
    (archive,) = registry.PUBLISHED["stl10"].archives
    assert (archive.name, archive.url, archive.md5) == (stl.filename, stl.url, stl.tgz_md5)
