"""The command line: what it prints, what it refuses, and the codes it leaves with."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lightmem_integrations import LightMem
from lightmem_integrations.cli import app
from lightmem_integrations.cli.demo import EXCERPT, excerpt
from lightmem_integrations.cli.output import printable

LIGHTMEM = [sys.executable, "-c", "from lightmem_integrations.cli import main; main()"]
COMMANDS = (
    *("demo", "add", "search", "context", "list", "show", "forget", "export", "import"),
    *("stats", "doctor", "reindex", "db", "bench"),
)
# Escape sequences, 8-bit ones, a bell, markup, a link, and marks that reorder what follows.
HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m [bold red]big[/bold red] [link=http://x]y[/link] \u202egnp\u2066 \x08end"
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
LINES = [
    {"role": "user", "speaker": "Noor", "content": "I start at the museum on Monday.", "session_id": "work"}
    | {"id": "n1", "timestamp": "2025-03-02T18:20:00+00:00"},
    {"role": "user", "speaker": "Noor", "content": "My cat is called Miso.", "session_id": "home"}
    | {"id": "n2", "timestamp": "2025-03-09T18:20:00+00:00"},
]
LOCOMO = {
    "sample_id": "tiny",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Bo",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "dia_id": "D1:1", "text": "I adopted a greyhound called Biscuit."},
            {"speaker": "Bo", "dia_id": "D1:2", "text": "Lovely! I only water my ferns."},
        ],
        "session_2_date_time": "2:00 pm on 9 June, 2023",
        "session_2": [{"speaker": "Bo", "dia_id": "D2:1", "text": "I moved to Leeds last week."}],
    },
    "qa": [
        {"question": "What is the greyhound called?", "answer": "Biscuit", "evidence": ["D1:1"], "category": 4},
        {"question": "Where did Bo move?", "answer": "Leeds", "evidence": ["D2:1"], "category": 1},
        {"question": "Why did Ann sell the greyhound?", "evidence": ["D1:1"], "category": 5},
    ],
}


class Offline:
    """An embedder with the default model's identity that fails."""

    name, dim = "all-MiniLM-L6-v2", 384

    def embed(self, texts: Any) -> Any:
        raise RuntimeError("no power")


class Homemade:
    """An embedder that the command line has no name for."""

    name, dim = "homemade", 2

    def embed(self, texts: Any) -> Any:
        return [[len(text), 1.0] for text in texts]


@pytest.fixture
def db(path: Path | str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database that every command of the test uses, without a model."""
    monkeypatch.setenv("LIGHTMEM_DB", str(path))
    monkeypatch.delenv("LIGHTMEM_EMBEDDER", raising=False)
    return str(path)


@pytest.fixture
def filled(db: str) -> str:
    run("add", "-", "--user", "ana", "--embedder", "none", stdin=jsonl(LINES))
    return db


@pytest.fixture
def locomo(tmp_path: Path) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps([LOCOMO]), encoding="utf-8")
    return str(path)


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def loaded(*arguments: str, **options: Any) -> Any:
    """The one JSON value that a command printed, and nothing beside it."""
    return json.loads(run(*arguments, "--json", **options).stdout)


def rows(*arguments: str, **options: Any) -> list[Any]:
    return [json.loads(line) for line in run(*arguments, "--json", **options).stdout.splitlines()]


def jsonl(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def process(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([*LIGHTMEM, *arguments], capture_output=True, timeout=60, **options)


# ------------------------------------------------------------------------------------ help
@pytest.mark.parametrize("arguments", [("--help",), (), ("-h",)])
def test_help_lists_every_command_and_the_exit_codes(arguments: tuple[str, ...]):
    shown = run(*arguments).stdout
    assert all(re.search(rf"^│ {command} ", shown, re.MULTILINE) for command in COMMANDS)
    assert "130 interrupted" in shown


def test_help_loads_nothing_heavy():
    program = "import sys, lightmem_integrations.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "sqlalchemy", "onnxruntime", "pydantic", "tokenizers"} & set(modules)


def test_page_of_the_documentation_names_every_command_and_option():
    page = (Path(__file__).resolve().parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in (*((name,) for name in COMMANDS), ("bench", "recall"), ("bench", "speed")):
        assert f"lightmem {' '.join(command)}" in page
        for option in set(re.findall(r"--[a-z-]+", run(*command, "--help").stdout)) - {"--help"}:
            assert re.search(rf"{option}\b", page), f"{command}: {option}"


# ------------------------------------------------------------------------------------ add and recall
def test_what_was_added_is_found_with_its_fields(filled: str):
    hits = rows("search", "What is the cat called?", "--user", "ana")
    assert hits[0]["text"] == "My cat is called Miso."
    assert (hits[0]["source_ids"], hits[0]["session_id"], hits[0]["speaker"]) == (["n2"], "home", "Noor")
    assert hits[0]["timestamp"] == "2025-03-09T18:20:00+00:00"
    assert 0 < hits[0]["score"] <= 1
    assert run("search", "cat", "--user", "ana").stdout.split("\t")[2:] == ["Noor", "n2", "My cat is called Miso.\n"]


def test_every_form_of_a_line_is_read_and_ids_come_back_in_the_order_of_the_lines(db: str):
    lines = [["assistant", "Noted."], LINES[1], "A string.", LINES[0]]
    text = "\ufeff" + jsonl(lines[:2]) + "\n  \n" + jsonl(lines[2:])
    added = loaded("add", "-", "--user", "ana", "--session", "rest", "--embedder", "none", stdin=text)
    assert (added["added"], added["known"], added["pending"]) == (4, 0, 0)
    assert (added["ids"][1], added["ids"][3]) == ("n2", "n1")
    entries = rows("list", "--user", "ana")
    assert {(e["session_id"], e["role"], e["text"]) for e in entries} == {
        ("rest", "assistant", "Noted."),
        ("home", "user", "My cat is called Miso."),
        ("rest", "user", "A string."),
        ("work", "user", "I start at the museum on Monday."),
    }


def test_a_file_added_twice_is_stored_once(filled: str, tmp_path: Path):
    path = tmp_path / "again.jsonl"
    path.write_text(jsonl(LINES), encoding="utf-8")
    assert loaded("add", str(path), "--user", "ana")["known"] == 2
    assert "0 added, 2 known already" in run("add", str(path), "--user", "ana").stdout
    assert len(rows("list", "--user", "ana")) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 must be JSON in UTF-8"),
        ('{"role": "boss", "content": "x"}', "line 2.role must be one of"),
        ('{"role": "user", "content": " "}', "line 2.content must hold some text"),
        ('{"role": "user", "content": "x", "session_id": " "}', "session_id must not be blank"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_stored(filled: str, line: str, told: str):
    assert told in run("add", "-", "--user", "bo", stdin=f'"good"\n{line}\n', code=2).stderr
    assert rows("list", "--user", "bo") == []


def test_context_is_the_text_for_a_prompt_and_keeps_the_budget(filled: str):
    assert "Noor: My cat is called Miso." in run("context", "cat", "--user", "ana").stdout
    context = loaded("context", "cat", "--user", "ana", "--max-tokens", "60")
    assert context["text"].startswith("<memory>")
    assert context["tokens"] <= 60
    assert context["hits"][0]["source_ids"] == ["n2"]
    assert loaded("context", "cat", "--user", "nobody") == {
        "text": "",
        "tokens": 0,
        "tokenizer": context["tokenizer"],
        "hits": [],
    }


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--session", "work"), ["n1"]),
        (("--since", "2025-03-05"), ["n2"]),
        (("--until", "2025-03-05"), ["n1"]),
        (("--speaker", "Noor"), ["n1", "n2"]),
        (("--speaker", "Dev"), []),
    ],
)
def test_filters_hold_for_list_search_and_context(filled: str, options: tuple[str, ...], found: list[str]):
    question = "the museum, and what the cat is called"
    assert [e["source_ids"][0] for e in rows("list", "--user", "ana", *options)] == found
    assert sorted(e["source_ids"][0] for e in rows("search", question, "--user", "ana", *options)) == found
    hits = loaded("context", question, "--user", "ana", *options)["hits"]
    assert sorted(e["source_ids"][0] for e in hits) == found


def test_list_goes_on_where_it_stopped(filled: str):
    first = run("list", "--user", "ana", "--limit", "1")
    assert "n1" in first.stdout
    assert "n2" not in first.stdout
    assert "--offset 1" in first.stderr
    rest = run("list", "--user", "ana", "--limit", "1", "--offset", "1")
    assert "n2" in rest.stdout
    assert rest.stderr == ""


def test_show_gives_the_entry_and_its_history(filled: str):
    entry = loaded("show", "n2", "--user", "ana")
    assert (entry["text"], entry["user_id"], entry["encoded"]) == ("My cat is called Miso.", "ana", False)
    assert [(c["actor"], c["operation"], c["version"]) for c in entry["history"]] == [("add", "insert", 1)]
    assert "insert by add" in run("show", entry["id"], "--user", "ana").stdout


def test_two_users_do_not_see_each_other(filled: str):
    run("add", "-", "--user", "bo", stdin='"My cat is called Nori."\n')
    assert {e["text"] for e in rows("search", "cat", "--user", "ana")} == {"My cat is called Miso."}
    assert {e["text"] for e in rows("search", "cat", "--user", "bo")} == {"My cat is called Nori."}
    assert "has no entry" in run("show", "n2", "--user", "bo", code=1).stderr
    run("forget", "--user", "bo", "--yes")
    assert len(rows("list", "--user", "ana")) == 2
    nothing = run("search", "cat", "--user", "bo")
    assert (nothing.stdout, nothing.stderr) == ("", "nothing found in the memory of bo\n")


# ------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("search", "cat"), 2, "--user"),
        (("search", "cat", "--user", " "), 2, "user_id must not be blank"),
        (("search", "cat", "--user", "ana", "--strategy", "magic"), 2, "strategy must be one of"),
        (("search", "cat", "--user", "ana", "--k", "0"), 2, "k must be"),
        (("search", "cat", "--user", "ana", "--since", "soon"), 2, "--since must be"),
        (("search", "cat", "--user", "ana", "--db", "missing.db"), 1, "no database at missing.db"),
        (("search", "cat", "--user", "ana", "--embedder", "magic"), 2, "embedder must be one of"),
        (("show", "n9", "--user", "ana"), 1, "no entry or message with the id n9"),
        (("add", "missing.jsonl", "--user", "ana"), 2, "missing.jsonl"),
        (("add", "-", "--user", "ana"), 2, "must hold at least one message"),
        (("import", "missing.jsonl", "--user", "ana"), 2, "missing.jsonl"),
        (("export", "-", "--user", "ana", "--json"), 2, "must not be - together with --json"),
        (("export", "missing/out.jsonl", "--user", "ana"), 2, "a folder that exists"),
        (("export", ".", "--user", "ana"), 2, "FILE must be a plain file"),
        (("reindex", "--db", "missing.db"), 1, "no database at missing.db"),
        (("stats", "--db", "unknown://server"), 2, "unknown"),
        (("demo", "--language", "xx"), 2, "language must be one of"),
        (("demo", "--data", "missing.json"), 2, "missing.json"),
        (("demo", "--questions", "0"), 2, "--questions must be at least 1"),
        (("bench", "recall"), 2, "DATA must name at least one"),
        (("serch", "cat"), 2, "No such command"),
        (("search", "--frobnicate"), 2, "No such option"),
    ],
)
def test_errors_are_one_line_on_stderr(filled: str, arguments: tuple[str, ...], code: int, told: str):
    result = run(*arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr


@pytest.mark.sqlite("a file of something else")
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes. " * 100)
    assert "not a LightMem database" in run("stats", "--db", str(path), code=1).stderr
    assert path.read_text() == "These are my notes. " * 100


def test_reading_makes_no_database(tmp_path: Path):
    for command in (("list", "--user", "a"), ("stats",), ("doctor",), ("forget", "--user", "a", "--yes")):
        run(*command, "--db", str(tmp_path / "typo.db"), code=1)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ embedders
def test_the_wrong_embedder_is_refused_and_reindex_is_the_way_out(filled: str):
    refused = run("search", "cat", "--user", "ana", "--embedder", "minilm", code=1)
    assert "lightmem reindex" in refused.stderr
    assert loaded("reindex", "--embedder", "minilm") == {"entries": 2, "embedder": "minilm"}
    # Nothing names the embedder now: the database knows.
    assert rows("search", "What is the pet's name?", "--user", "ana")[0]["source_ids"] == ["n2"]
    assert loaded("show", "n2", "--user", "ana")["encoded"] is True
    assert "2 entries encoded with minilm" in run("reindex").stdout


def test_looking_and_forgetting_need_no_model(db: str, tmp_path: Path):
    with LightMem(db, embedder=Homemade()) as memory:
        memory.add("My cat is called Miso.", user_id="ana")
    assert loaded("stats")["embedder"] == "homemade"
    assert "Miso" in run("list", "--user", "ana").stdout
    assert loaded("doctor")["ok"] is True
    assert loaded("export", str(tmp_path / "out.jsonl"), "--user", "ana")["turns"] == 1
    assert "'homemade'" in run("search", "cat", "--user", "ana", code=1).stderr
    assert loaded("forget", "--user", "ana", "--yes")["rows"]["turns"] == 1


def test_doctor_leaves_with_3_until_what_is_pending_is_mended(db: str):
    with LightMem(db, embedder=Offline()) as memory:
        memory.add("My cat is called Miso.", user_id="ana")
    report = loaded("doctor", code=3)
    assert report["ok"] is False
    assert [(f["name"], f["count"]) for f in report["findings"] if not f["ok"]] == [("pending", 1)]
    sick = run("doctor", code=3)
    assert re.search(r"✗ pending .*no power", sick.stdout)
    assert "--repair" in sick.stderr
    assert loaded("doctor", "--repair")["ok"] is True
    assert run("doctor").stdout.count("✓") == 4


def test_stats_counts_one_user_or_all(filled: str):
    run("add", "-", "--user", "bo", stdin='"Hello."\n')
    assert loaded("stats")["rows"]["turns"] == 3
    assert loaded("stats", "--user", "bo")["rows"]["turns"] == 1
    assert re.search(r"^turns +3$", run("stats").stdout, re.MULTILINE)


# ------------------------------------------------------------------------------------ forget and move
def test_forgetting_everything_asks_first(filled: str):
    assert "2 turns in 2 sessions" in run("forget", "--user", "ana", stdin="n\n", code=1).stderr
    assert "not confirmed" in run("forget", "--user", "ana", stdin="", code=1).stderr
    assert len(rows("list", "--user", "ana")) == 2
    gone = json.loads(run("forget", "--user", "ana", "--json", stdin="y\n").stdout)
    assert (gone["rows"]["turns"], gone["rows"]["sessions"]) == (2, 2)
    assert gone["total"] == sum(gone["rows"].values())
    assert rows("list", "--user", "ana") == []
    assert "nothing to remove" in run("forget", "--user", "ana").stderr


@pytest.mark.parametrize(
    "options", [("--session", "work"), ("--id", "n1"), ("--before", "2025-03-05"), ("--id", "n1", "--id", "n9")]
)
def test_forgetting_a_part_does_not_ask_and_counts_by_table(filled: str, options: tuple[str, ...]):
    assert re.search(r"^turns +1$", run("forget", "--user", "ana", *options).stdout, re.MULTILINE)
    assert [e["source_ids"] for e in rows("list", "--user", "ana")] == [["n2"]]


def test_an_export_becomes_the_memory_of_another_user(filled: str, tmp_path: Path):
    path = str(tmp_path / "ana.jsonl")
    assert loaded("export", path, "--user", "ana") == {"turns": 2, "file": path}
    piped = run("export", "-", "--user", "ana")
    assert piped.stdout == Path(path).read_text(encoding="utf-8")
    assert piped.stderr == "2 turns of ana\n"
    assert loaded("import", path, "--user", "bo")["added"] == 2
    assert "0 added, 2 known already" in run("import", "-", "--user", "bo", stdin=piped.stdout).stdout
    assert [e["source_ids"] for e in rows("list", "--user", "bo")] == [["n1"], ["n2"]]


# ------------------------------------------------------------------------------------ terminals and pipes
@pytest.mark.parametrize("text", [HOSTILE, "two\r\nlines\tand\x0b\x0cmore", "\x00\x7f\x85\u2028"])
def test_printable_text_is_one_line_without_control_characters(text: str):
    assert not UNSAFE.search(printable(text))
    assert "\n" not in printable(text)
    assert not UNSAFE.search(printable(text, lines=True))


def hostile(path: str) -> None:
    line = {"role": "user", "speaker": HOSTILE, "content": f"cat {HOSTILE}", "session_id": HOSTILE, "id": HOSTILE}
    added = loaded("add", "-", "--user", "ana", "--db", path, "--embedder", "none", stdin=jsonl([line]))
    assert added["ids"] == [HOSTILE]


READERS = (("search", "cat"), ("context", "cat"), ("list",), ("show", HOSTILE), ("show", HOSTILE + "?"))


@pytest.mark.parametrize("command", READERS, ids=lambda c: c[0])
def test_hostile_text_is_escaped_in_a_pipe_and_whole_in_json(db: str, command: tuple[str, ...]):
    hostile(db)
    code = 1 if command[-1].endswith("?") else 0
    assert not UNSAFE.search(run(*command, "--user", "ana", code=code).output)
    if code == 0:
        plain = run(*command, "--user", "ana", "--json").stdout
        assert not UNSAFE.search(plain)
        # `context` renders the text on one line of its own making; the entries behind it are whole.
        assert HOSTILE in {text.removeprefix("cat ") for text in _strings([json.loads(plain)])}


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item)]


@pytest.mark.parametrize("command", READERS[:4], ids=lambda c: c[0])
def test_hostile_text_cannot_steer_a_terminal_nor_style_it(db: str, command: tuple[str, ...]):
    hostile(db)
    shown = on_terminal(*command, "--user", "ana")
    # Colours that the command itself chose are the only sequences left.
    assert not UNSAFE.search(re.sub(r"\x1b\[[0-9;]*m", "", shown))
    assert "[bold" in shown


def on_terminal(*arguments: str) -> str:
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"}
    done = subprocess.Popen([*LIGHTMEM, *arguments], stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    shown = b""
    try:
        while block := os.read(parent, 65536):
            shown += block
    except OSError:  # Linux tells so that the other end is closed
        pass
    os.close(parent)
    assert done.wait(60) == 0, shown
    return shown.decode().replace("\r\n", "\n")


def test_a_reader_that_leaves_is_no_error(db: str):
    run("add", "-", "--user", "ana", "--embedder", "none", stdin=jsonl([f"Turn {n} of many." for n in range(1_500)]))
    for options in ((), ("--json",)):
        arguments = [*LIGHTMEM, "list", "--user", "ana", "--limit", "1500", *options]
        reader = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.readline()
        reader.stdout.close()
        complaint = reader.stderr.read()
        reader.stderr.close()
        assert (reader.wait(60), complaint) == (0, b"")


def test_an_interrupt_leaves_with_130(db: str):
    waiting = subprocess.Popen(
        [*LIGHTMEM[:2], "print(flush=True); " + LIGHTMEM[2], "add", "-", "--user", "ana"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts its background jobs with interrupts switched off.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert waiting.stdout is not None
    waiting.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.5)
    waiting.send_signal(signal.SIGINT)
    _, complaint = waiting.communicate(timeout=60)
    assert (waiting.returncode, complaint) == (130, b"error: interrupted\n")


def test_output_is_utf8_whatever_the_locale(db: str):
    run("add", "-", "--user", "ana", "--embedder", "none", stdin='"小满搬到良渚。 ✓"\n')
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = process("list", "--user", "ana", env=environment)
    assert done.returncode == 0, done.stderr
    assert "小满搬到良渚。 ✓" in done.stdout.decode("utf-8")


# ------------------------------------------------------------------------------------ demo
def test_the_demo_finds_most_evidence_with_the_default_model():
    demo = loaded("demo", "--questions", "99")
    summary = demo["summary"]
    assert demo["embedder"] == "all-MiniLM-L6-v2"
    assert (demo["turns"], demo["sessions"]) == (177, 12)
    assert summary["questions"] == summary["labelled"] == len(demo["questions"]) == 12
    assert summary["with_evidence"] >= 9
    assert summary["share"] < 0.1
    for question in demo["questions"]:
        recalled = {turn for hit in question["hits"] for turn in hit["source_ids"]}
        assert question["found"] == [turn for turn in question["evidence"] if turn in recalled]
        assert [hit["evidence"] for hit in question["hits"]] == [
            not set(question["evidence"]).isdisjoint(hit["source_ids"]) for hit in question["hits"]
        ]
        assert len(question["hits"]) <= 5
        assert question["expected"]


def test_the_demo_shows_questions_evidence_and_figures(locomo: str):
    shown = run("demo", "--data", locomo, "--embedder", "none").stdout
    assert "Ann and Bo (tiny)" in shown
    assert "3 turns in 2 sessions, 2023-05-08 to 2023-06-09" in shown
    assert re.search(r"✓ +\d\.\d\d +2023-05-08 +Ann +I adopted a greyhound called Biscuit\. \[D1:1\]", shown)
    assert re.search(r"expected +Leeds", shown)
    assert "evidence in the top 5 for 2 of 2 questions (all of it for 2)" in shown
    assert "Why did Ann sell" not in shown  # adversarial: there is nothing to recall
    assert "\x1b" not in shown


@pytest.mark.sqlite("the demo asks whether the file is there")
def test_the_demo_keeps_its_memory_where_it_is_told(locomo: str, tmp_path: Path):
    path = str(tmp_path / "kept.db")
    arguments = ("demo", "--data", locomo, "--db", path, "--embedder", "none")
    assert loaded(*arguments)["db"] == path
    assert loaded(*arguments[:-2], "--ask", "Who moved?", "--ask", "Ferns?")["embedder"] == "none"
    assert [e["source_ids"] for e in rows("list", "--user", "tiny", "--db", path)] == [["D1:1"], ["D1:2"], ["D2:1"]]


def test_the_demo_answers_your_own_question(locomo: str):
    arguments = ("demo", "--data", locomo, "--embedder", "none", "--ask", "Who waters ferns?")
    demo = loaded(*arguments)
    assert [q["question"] for q in demo["questions"]] == ["Who waters ferns?"]
    assert demo["questions"][0]["hits"][0]["source_ids"] == ["D1:2"]
    assert "evidence" not in run(*arguments).stdout


def test_the_demo_speaks_chinese():
    demo = loaded("demo", "--language", "zh", "--embedder", "none")
    assert (demo["language"], demo["turns"]) == ("zh", 40)
    assert demo["summary"]["with_evidence"] >= 2


def test_the_demo_asks_only_what_was_said_before_the_question(tmp_path: Path):
    turns = [{"turn_id": f"t{n}", "speaker": "Ann", "text": f"I live in town {n}."} for n in (1, 2)]
    question = {"question_id": "q", "question": "Which town does Ann live in?", "answer": "1", "category": "fact"}
    conversation = {
        "conversation_id": "c",
        "sessions": [{"session_id": f"s{n}", "turns": [turn]} for n, turn in enumerate(turns, 1)],
        "questions": [question | {"evidence_turns": ["t1"], "visible_before_session": "s2"}],
    }
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(conversation))
    asked = loaded("demo", "--data", str(path), "--embedder", "none")["questions"][0]
    assert [hit["source_ids"] for hit in asked["hits"]] == [["t1"]]


def test_an_excerpt_shows_the_sentence_that_answers():
    filler = "The weather was grey and nobody came by the shop that day. "
    text = filler * 6 + "My greyhound is called Biscuit. " + filler * 6
    shown = excerpt(text, "What is the greyhound called?")
    assert "Biscuit" in shown
    assert shown.startswith("… ")
    assert shown.endswith(" …")
    assert len(shown) <= EXCERPT + 4
    assert excerpt("short", "?") == "short"


# ------------------------------------------------------------------------------------ bench
def test_bench_recall_scores_a_data_set(locomo: str):
    arguments = ("bench", "recall", locomo, "--embedder", "none", "--strategy", "bm25", "--strategy", "weighted")
    report = loaded(*arguments)
    assert report["strategies"] == ["bm25", "weighted"]
    assert report["questions"] == 3
    assert report["figures"]["bm25"]["all"]["recall@10"] == 1.0
    assert run(*arguments, "--markdown").stdout.startswith("| strategy |")
    assert "recall@10" in run("bench", "recall", "--data", locomo, "--embedder", "none", "--level", "session").stdout


@pytest.mark.slow
def test_bench_speed_measures():
    report = loaded("bench", "speed", "--quick", "--sizes", "50", "--others", "50", "--embedder", "none")
    assert {figure["part"] for figure in report["figures"]} >= {"add", "search", "neighbours", "startup"}


def test_bench_segment_scores_labelled_dialogues(tmp_path):
    dialogue = {
        "id": "d1",
        "language": "en",
        "utterances": ["The cat sleeps.", "Cats sleep all day.", "Stocks fell today.", "The stock market fell again."],
        "segments": [2, 2],
    }
    (tmp_path / "d.jsonl").write_text(json.dumps(dialogue), "utf-8")
    report = loaded("bench", "segment", str(tmp_path / "d.jsonl"), "--embedder", "none")
    assert any(row["method"].startswith("lightmem") for row in report["rows"])
    run("bench", "segment", code=2)


def test_bench_compress_keeps_what_it_says(tmp_path):
    words = " ".join(f"Word{n} means nothing much to anybody here today." for n in range(12))
    turns = [{"turn_id": f"t{n}", "speaker": "Ana", "text": f"{words} Miso{n} is my cat."} for n in range(4)]
    question = {"question_id": "q", "question": "Who is Miso2?", "answer": "cat", "evidence_turns": ["t2"]}
    data = {"conversation_id": "c", "language": "en", "speakers": ["Ana"], "questions": [question]}
    data["sessions"] = [{"session_id": "s", "time": "2024-05-20T12:00:00+00:00", "turns": turns}]
    (tmp_path / "c.json").write_text(json.dumps(data), "utf-8")
    report = loaded("bench", "compress", str(tmp_path / "c.json"), "--rate", "0.6")
    kept = [row["kept"] for row in report["rows"] if row["method"] == "lexical"]
    assert len(kept) == 1
    assert 0.5 <= kept[0] <= 0.7


# ------------------------------------------------------------------------------------ update, undo, summarize, sweep
def test_duplicate_facts_merge_and_part_again(db: str):
    said = [
        {"role": "user", "content": "I moved to Porto with my sister Noor in May 2023.", "timestamp": t, "id": i}
        for t, i in (("2024-01-01T10:00:00Z", "a"), ("2024-01-05T10:00:00Z", "b"))
    ]
    run("add", "-", "--user", "ana", stdin="".join(json.dumps(line) + "\n" for line in said))
    assert loaded("stats")["entries"]["fact"] == 2
    report = loaded("update", "--user", "ana")
    assert (report["merged"], report["superseded"], report["errors"]) == (2, 0, [])
    assert loaded("update", "--user", "ana")["merged"] == 0
    assert loaded("summarize", "--user", "ana", "--hours", "240")["errors"] == []
    assert loaded("sweep", "--dry-run") == {"expired": {}, "faded": {}, "rows": {}, "dry_run": True}
    assert "0 entries would go" in run("sweep", "--dry-run").stdout


def test_undo_of_nothing_says_so(filled: str):
    entry = rows("list", "--user", "ana")[0]["id"]
    assert "error:" in run("undo", entry, "--user", "ana", code=2).stderr
    assert "error:" in run("undo", "nowhere", "--user", "ana", code=2).stderr


def test_the_retention_policy_is_read_from_the_environment(filled: str, monkeypatch):
    monkeypatch.setenv("LIGHTMEM_RETENTION_THRESHOLD", "1")
    monkeypatch.setenv("LIGHTMEM_RETENTION_MIN_AGE_DAYS", "0")
    report = loaded("sweep", "--dry-run", "--user", "ana")
    assert report["faded"]["ana"]
    assert len(rows("list", "--user", "ana")) == 2
