"""Key files and what is let in."""

from pathlib import Path

import pytest

from tritext import access
from tritext.access import Guard, digest, read_keys
from tritext.errors import InvalidInput
from tritext.naming import ROLES, step_name
from tritext.repository import CONFIG, BuiltModel
from tritext.serve.ensemble import native_steps
from tritext.serve.protection import Protection

KEY = "a-key-of-sixteen-characters"


def written(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_one_key_a_line(tmp_path: Path) -> None:
    assert read_keys(written(tmp_path, f"{KEY}\r\n\n  another-{KEY}  ")) == [KEY, f"another-{KEY}"]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_that_is_closed_to_others_is_taken(tmp_path: Path, mode: int) -> None:
    assert read_keys(written(tmp_path, KEY, mode)) == [KEY]


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InvalidInput, match=f"mode {mode:04o}.*chmod 640"):
        read_keys(written(tmp_path, KEY, mode))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty. Write a key into it"),
        ("\n \n", "is empty"),
        ("brief", "Key 1 in .* is shorter than 16"),
        (f"{KEY}\nhas spaces in the middle", "Key 2 in .* characters other than visible ASCII"),
        ("schlüssel-mit-umlaut", "visible ASCII"),
        (b"\xff\xfe" + KEY.encode(), "it is not text"),
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as error:
        read_keys(written(tmp_path, content))
    assert KEY not in str(error.value)
    assert "umlaut" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere cannot be read: No such file"):
        read_keys(tmp_path / "nowhere")


def test_who_has_a_key_is_let_in_and_the_key_goes_no_further() -> None:
    guard = Guard([digest("x" * 20), digest(KEY)])
    for name in ("authorization", "Authorization", "AUTHORIZATION"):
        for scheme in ("Bearer", "bearer"):
            parameters: dict[str, object] = {name: f"{scheme} {KEY}", "top_k": 2}
            guard.admit(parameters)
            assert parameters == {"top_k": 2}


@pytest.mark.parametrize("value", [None, KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {digest(KEY)}", 7, ["Bearer"]])
def test_who_has_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match=access.REFUSAL) as error:
        Guard([digest(KEY)]).admit({} if value is None else {"authorization": value})
    assert KEY not in str(error.value)


def test_without_keys_all_are_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for digests in ("", digest(KEY)):
        monkeypatch.setenv(access.DIGESTS, digests)
        guard = Guard.from_environment()
        if digests:
            with pytest.raises(InvalidInput):
                guard.admit({})
        else:
            guard.admit({})


def test_steps_that_cannot_ask_for_a_key_are_named(tmp_path: Path) -> None:
    model = BuiltModel(tmp_path, "spam", "0000abcd")
    for role in ROLES:
        folder = tmp_path / step_name("spam", role, "0000abcd")
        folder.mkdir()
        kind = 'platform: "tensorrt_plan"' if role == "encoder" else 'backend: "python"'
        (folder / CONFIG).write_text(kind)
        (folder / "1").mkdir()
    native = native_steps([model])
    assert native == ["spam_encoder_0000abcd"]
    with_key = Protection(digests=[digest(KEY)]).warnings(is_local=True, http_is_local=True, native=native)
    assert with_key == ["Triton runs spam_encoder_0000abcd by itself: who knows these names gets logits without a key."]
    assert Protection().warnings(is_local=True, http_is_local=True, native=native) == []


@pytest.mark.parametrize(
    ("is_local", "has_key", "said"),
    [
        (True, False, []),
        (True, True, []),
        (False, False, ["there is no API key"]),
        (False, True, ["API keys travel in clear"]),
    ],
)
def test_what_is_said_of_who_can_ask(is_local: bool, has_key: bool, said: list[str]) -> None:
    protection = Protection(digests=[digest(KEY)] if has_key else [])
    warnings = protection.warnings(is_local=is_local, http_is_local=is_local)
    assert [part in warning for part, warning in zip(said, warnings, strict=True)] == [True] * len(said)
