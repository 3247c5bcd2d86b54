"""Programs that a model wrote do no harm, and cannot pretend to be right.

Nothing hostile is run before a harmless program has found that the walls stand.
"""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from tunix_grpo.sandbox import probe, starting
from tunix_grpo.sandbox.probe import find_unlimited, require_limits
from tunix_grpo.sandbox.running import MEANS, Job, Limits, Sandbox, SandboxError

SOURCES = Path(__file__).resolve().parent.parent / "src"
LIMITS = Limits(timeout_s=1.0, memory_bytes=256 << 20, disk_bytes=4 << 20, output_bytes=1 << 16)
MARK = f"# sandbox of the tests {uuid.uuid4()}"  # in the command of each process
# Two ways to build the walls: with namespaces, and where a system does not allow these.
WALLS = {"namespaces": MEANS, "without namespaces": MEANS[1:]}
SECRET = "a-secret-of-the-run"

ENDED = {"error", "timeout", "memory", "processes"}
# name -> code, how it may end; {file} is one of the run's, {pid} the run's process
HOSTILE = {
    "sleeps": ("import time\ntime.sleep(60)", {"timeout"}),
    "computes": ("while True: pass", {"timeout"}),
    "a huge power": ("9**9**9", {"timeout"}),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {"timeout"}),
    "ignores signals": (
        """
        import signal, time
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        time.sleep(60)
        """,
        {"timeout"},
    ),
    "forks": ("import os\nwhile True: os.fork()", ENDED),
    "forks on": (
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        ENDED,
    ),
    "daemonises": (
        """
        import os, time
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(60)
        """,
        ENDED,
    ),
    "starts programs": (
        "import subprocess\nsubprocess.Popen(['sleep', '60'], start_new_session=True)",
        ENDED,
    ),
    "threads": (
        """
        import threading, time
        threading.stack_size(1 << 16)
        while True:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """,
        ENDED,
    ),
    "fills memory": ("x = []\nwhile True: x.append(bytearray(1 << 20))", ENDED),
    "fills memory at once": ("x = ' ' * 10**12", {"error"}),
    "fills the disk": (
        """
        number = 0
        while True:
            number += 1
            with open(f"file{number}", "wb") as file:
                file.write(bytes(1 << 20))
        """,
        {"error", "disk"},
    ),
    "fills the disk on": (
        """
        number = 0
        while True:
            number += 1
            try:
                with open(f"file{number}", "wb") as file:
                    file.write(bytes(1 << 20))
            except OSError:
                pass
        """,
        {"timeout", "disk"},
    ),
    "one huge file": ("open('file', 'wb').truncate(1 << 40)", {"error"}),
    "prints": ("while True: print('x' * 1000)", {"output"}),
    "opens sockets": ("import socket\nsocket.create_connection(('127.0.0.1', 22))", {"error"}),
    "recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()", ENDED),
    "recursion in C": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n def __getattr__(self, n): return getattr(self, n)\nA().x",
        ENDED | {"crash"},
    ),
    "deep brackets": ("(" * 100_000 + ")" * 100_000, {"no_python"}),
    "a deep expression": ("x = " + "-" * 100_000 + "1", {"error", "no_python", "crash"}),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", {"error"}),
    "kills all": ("import os\nos.kill(-1, 9)", {"error"}),
    "kills its group": ("import os\nos.killpg(0, 9)", {"error", "crash"}),
    "kills the run": ("import os\nos.kill({pid}, 9)", {"error"}),
    "traces its parent": ("import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0", {"error"}),
    "reads its parent": ("import os\nopen(f'/proc/{{os.getppid()}}/environ').read()", {"error"}),
    "reads the run": ("open('/proc/{pid}/environ').read()", {"error"}),
    "reads files": ("open('{file}').read()", {"error"}),
    "changes files": ("open('{file}', 'w')", {"error"}),
    "deletes files": ("import os\nos.remove('{file}')", {"error"}),
    "cuts files": ("import os\nos.truncate('{file}', 0)", {"error"}),
    "closes files to you": ("import os\nos.chmod('{file}', 0)", {"error"}),
    "writes elsewhere": ("open('{file}.new', 'w')", {"error"}),
    "deletes all": ("import shutil\nshutil.rmtree('/')", {"error"}),
    "closed folders": (
        "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w')\nos.chmod('a/b', 0)\nos.chmod('a', 0)",
        {"passed", "error"},
    ),
    "closes its files": ("import os, time\nos.closerange(0, 100)\ntime.sleep(60)", {"timeout"}),
    "aborts": ("import os\nos.abort()", {"crash"}),
    "leaves": ("raise SystemExit(3)", {"error"}),
    "leaves well": ("import sys\nsys.exit(0)", {"passed"}),
    "reads the environment": ("import os\nprint(dict(os.environ))", {"passed"}),
    "reads the environment of old": (
        """
        import ctypes
        libc = ctypes.CDLL(None)
        variables = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
        number = 0
        while variables and variables[number]:
            print(variables[number])
            number += 1
        """,
        {"passed"},
    ),
    "reads descriptors": (
        """
        import os
        for number in range(3, 64):
            try:
                print(os.read(number, 100_000))
            except OSError:
                pass
        """,
        {"passed"},
    ),
}


def launchers(mark: str = MARK) -> list[int]:
    """Returns the processes whose command has a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError, UnicodeDecodeError):
            continue
        if mark in command:
            found.append(int(folder.name))
    return found


def ended_soon(mark: str = MARK, within_s: float = 10.0) -> bool:
    """Says whether all processes with a mark are gone in time."""
    deadline = time.monotonic() + within_s
    while launchers(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module", autouse=True)
def marked():
    """Marks the processes of all sandboxes."""
    program = starting._PROGRAM
    starting._PROGRAM = f"{program} {MARK}"
    yield
    starting._PROGRAM = program


@pytest.fixture(scope="module", params=WALLS)
def walls(request):
    """Returns a sandbox whose walls are known to stand."""
    sandbox = Sandbox(LIMITS, workers=4, means=WALLS[request.param])
    missing = find_unlimited(sandbox)
    if missing:
        pytest.skip(f"this system cannot limit {', '.join(missing)} {request.param}")
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def hostile(walls, tmp_path_factory):
    """Runs all hostile programs beside each other; returns how each ended and what it printed, and the run's folder."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "file").write_text(SECRET)
    printed = {}
    words = {"file": str(folder / "file"), "pid": str(os.getpid())}

    def job(name, code):
        for word, value in words.items():
            code = code.replace(f"{{{word}}}", value)
        code = textwrap.dedent(code).replace("{{", "{").replace("}}", "}")
        return Job(code=code, inputs=[""], is_right=lambda _, text: printed.setdefault(name, text) is not None, count=1)

    os.environ["SECRET"] = SECRET
    tempfile.tempdir = str(folder)
    try:
        outcomes = walls.run_all([job(name, code) for name, (code, _) in HOSTILE.items()])
    finally:
        tempfile.tempdir = None
        del os.environ["SECRET"]
    return {name: outcome.ends[0] for name, outcome in zip(HOSTILE, outcomes, strict=True)}, printed, folder


@pytest.mark.long
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_ends_within_its_limits(hostile, name):
    ends, printed, _ = hostile
    assert ends[name] in HOSTILE[name][1]
    assert SECRET not in printed.get(name, "")


@pytest.mark.long
def test_nothing_is_left_of_hostile_programs(hostile, walls):
    _, _, folder = hostile
    walls.close()
    assert ended_soon()
    assert [path.name for path in folder.rglob("*")] == ["file"]
    assert (folder / "file").read_text() == SECRET


def test_programs_see_python_and_an_empty_folder(walls):
    code = """
        import os, random, threading, tempfile
        from decimal import Decimal
        assert os.listdir() == []
        with tempfile.TemporaryFile("w") as file:
            file.write("x")
        name = input()
        thread = threading.Thread(target=lambda: print("hello", name))
        thread.start()
    """
    job = Job(code=textwrap.dedent(code), inputs=["you\n"] * 2, is_right=lambda _, text: text == "hello you\n", count=2)
    assert walls.run(job).ends == ["passed"] * 2
    assert walls.run(job).means == [name for name in walls.run(job).means if name in MEANS]


# --- tests that call functions ---

# code, tests, how each ends
CALLS = {
    "values": (
        "def f(x): return x * 2",
        ["assert f(2) == 4", "assert f('a') == 'aa'", "assert f((1,)) == (1, 1)", "assert f(2) == 5"],
        ["passed", "passed", "passed", "failed"],
    ),
    "kinds of values": (
        "def f(x): return x\ndef g(): return 2**100, 1j, b'a', {1: {2}}",
        [
            "assert g() == (2**100, 1j, b'a', {1: {2}})",
            "import datetime, fractions; x = [datetime.date(2020, 1, 2), fractions.Fraction(1, 3), None, True]\n"
            "assert f(x) == x and f(x)[3] is True",
            "import collections; assert f(collections.Counter('aab')) == {'a': 2, 'b': 1}",
        ],
        ["passed"] * 3,
    ),
    "arguments that are changed": (
        "def f(x): x.sort()\ndef g(x): x['a'] = 1",
        ["a = [2, 1]; f(a); assert a == [1, 2]", "d = {}; g(d); assert d == {'a': 1}"],
        ["passed", "passed"],
    ),
    "errors": (
        "def f(x): raise KeyError('no')",
        ["try:\n  f(1)\n  assert False\nexcept KeyError as error:\n  assert 'no' in str(error)", "assert f(1)"],
        ["passed", "error"],
    ),
    "objects": (
        """
        class Node:
            def __init__(self, value): self.value, self.next = value, None
            def __eq__(self, other): return self.value == other.value
        def total(node): return node.value + (total(node.next) if node.next else 0)
        def count(): yield from range(3)
        """,
        [
            "a = Node(1); a.next = Node(2); assert total(a) == 3 and a.next.value == 2",
            "assert list(count()) == [0, 1, 2]",
            "assert Node(1) == Node(1) and Node(1) != Node(2)",
        ],
        ["passed"] * 3,
    ),
    "a class Solution": ("class Solution:\n def f(self, x): return x", ["assert Solution().f(3) == 3"], ["passed"]),
    "a builtin's name": ("def sum(a, b): return a + b", ["assert sum(10, 15) == 25"], ["passed"]),
    "modules that tests forgot": ("def f(): return 0.1 + 0.2", ["assert math.isclose(f(), 0.3)"], ["passed"]),
    "imports": (
        "def f(): return 1\nx = [2]",
        [
            "from solution import f\nassert f() == 1",
            "from solution import *\nassert x == [2]",
            "import solution; solution.y",
        ],
        ["passed", "passed", "error"],
    ),
    "huge values": (
        "def f(): return 10 ** 10**5\ndef g(): raise ValueError(f())",
        ["assert f() == 10 ** 10**5", "try: g()\nexcept ValueError: pass"],
        ["passed", "passed"],
    ),
    "no such function": ("def g(): pass", ["assert f(1) == 1"], ["error"]),
    "no Python": ("def f(:", ["assert f(1) == 1"], ["error"]),
    "an endless loop": ("def f(x):\n while x: pass\n return 1", ["assert f(0)", "assert f(1)"], ["passed", "timeout"]),
}
EQUAL_TO_ALL = """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 1
    def __bool__(self): return True
    def __sub__(self, other): return 0.0
    __rsub__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __add__ = __radd__ = __abs__ = __float__ = __sub__
"""
# Code that wants to pass `assert f(1) == 7361904`, and other tests, without knowing the answer.
CHEATS = {
    "equal to all": f"{EQUAL_TO_ALL}\ndef f(x): return Yes()",
    "a number equal to all": f"{EQUAL_TO_ALL}\nclass Int(Yes, int): pass\ndef f(x): return Int()",
    "a text equal to all": f"{EQUAL_TO_ALL}\nclass Str(Yes, str): pass\ndef f(x): return Str()",
    "a list equal to all": f"{EQUAL_TO_ALL}\nclass List(Yes, list): pass\ndef f(x): return List([1])",
    "exit": "import sys\ndef f(x): sys.exit(0)",
    "exit at once": "import os\nos._exit(0)",
    "exit while loading": "def f(x): return 1\nraise SystemExit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): os._exit(0)",
    "prints success": """
        import os, json
        for number in range(64):
            for text in ('{"test": 0, "end": "passed"}', '{"value": 7361904, "changed": []}', '{"names": ["f"]}'):
                try:
                    os.write(number, text.encode() + b"\\n")
                except OSError:
                    pass
        def f(x): return 0
    """,
    "other builtins": """
        import builtins
        class Error(Exception): pass
        builtins.AssertionError = Error
        builtins.abs = lambda x: 0
        builtins.compile = builtins.exec = lambda *a: None
        def abs(x): return 0
        def isinstance(x, y): return True
        def f(x): return 0
    """,
    "looks around": """
        import gc, sys
        def f(x):
            for frame in sys._current_frames().values():
                while frame:
                    for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
                        if "73" + "61904" in str(value)[:100_000]:
                            return int("73" + "61904")
                    frame = frame.f_back
            for value in gc.get_objects():
                if type(value) in (str, dict, list) and ("== 73" + "61904") in str(value)[:100_000]:
                    return int("73" + "61904")
            return 0
    """,
    "reads the judge": """
        import os
        def f(x):
            for pid in range(1, 50):
                for name in ("mem", "environ", "maps", "fd"):
                    try:
                        open(f"/proc/{pid}/{name}", "rb").read(100)
                        return 7361904
                    except OSError:
                        pass
            return 0
    """,
    "kills the judge": "import os\ndef f(x):\n for pid in range(os.getpid() + 1, os.getpid() + 9): os.kill(pid, 9)",
    "says an endless line": "def f(x): return 'x' * (100 << 20)",
    "says something deep": "def f(x):\n y = []\n for _ in range(10**5): y = [y]\n return y",
}
CHEATED = [
    "assert f(1) == 7361904",
    "assert abs(f(1) - 7361904) < 1e-6",
    "assert 7361904 in [f(1)]",
    "assert f(1) in (7361904, 42)",
]


def calls(code: str, tests: list[str], **changed) -> Job:
    """Returns a job of tests that call functions."""
    content = {"setup": "", "tests": tests, "function": None} | changed
    return Job(code=textwrap.dedent(code), tests=content, count=len(content.get("inputs", tests)))


@pytest.fixture(scope="module")
def called(walls):
    """Runs all tests that call functions, those that cheat too; returns how they ended."""
    jobs = {name: calls(code, tests) for name, (code, tests, _) in CALLS.items()}
    jobs |= {name: calls(code, CHEATED) for name, code in CHEATS.items()}
    return dict(zip(jobs, (outcome.ends for outcome in walls.run_all(list(jobs.values()))), strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_calls(called, name):
    assert called[name] == CALLS[name][2]


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_passes_nothing(called, name):
    assert "passed" not in called[name]


def test_a_program_takes_no_builtin_s_place_by_a_star(walls):
    code = """
        def f(x): return 0
        def all(x): return True
        def abs(x): return 0
        class math: isclose = lambda *_: True
    """
    tests = ["assert all(f(n) == n + 7 for n in range(3))", "assert abs(f(1) - 7) < 1", "assert math.isclose(f(1), 7)"]
    job = calls(code, [f"from solution import *\n{test}" for test in tests])
    assert walls.run(job).ends == ["failed"] * 3


def test_calls_by_name_are_compared_as_json(walls):
    code = """
        class Solution:
            def f(self, x, y=0): return (x, {y: 0.1 + 0.2})
    """
    tests = {"function": "f", "inputs": [[1], [1, 2], [1], [1]]}
    outputs = [[1, {"0": 0.3}], [1, {"2": 0.3}], [[1, {"0": 0.3}]], [1, {"0": 0.31}]]
    assert walls.run(calls(code, [], **tests, outputs=outputs)).ends == ["passed", "passed", "passed", "failed"]


def test_one_failure_can_be_enough(walls):
    job = Job(code="print(input())", inputs=["1", "2", "3"], is_right=lambda n, _: n == 0, count=3, until_failure=True)
    assert walls.run(job).ends == ["passed", "failed", "stopped"]
    content = {"setup": "", "tests": ["assert f()", "assert not f()", "assert f()"], "function": None}
    job = Job(code="def f(): return 1", tests=content, count=3, until_failure=True)
    assert walls.run(job).ends == ["passed", "failed", "stopped"]


def test_at_a_deadline_all_ends(walls):
    start = time.monotonic()
    jobs = [Job(code="import time\ntime.sleep(60)", inputs=[""], count=1)] * 12
    assert walls.run_all(jobs, time.monotonic() + 0.5) == [None] * 12
    assert time.monotonic() - start < 10
    walls.close()
    assert ended_soon()


RUN = """
    from tunix_grpo.sandbox import starting
    from tunix_grpo.sandbox.running import *
    starting._PROGRAM += %r
    limits = Limits(timeout_s=100, memory_bytes=256 << 20, disk_bytes=1 << 20, output_bytes=1)
    print("started", flush=True)
    try:
        Sandbox(limits, workers=2, means=%r).run_all([Job(code="while True: pass", inputs=[""], count=1)] * 4)
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
@pytest.mark.parametrize("means", WALLS.values(), ids=WALLS)
def test_a_run_that_ends_takes_its_programs_along(tmp_path, means, how):
    mark = f"# a run of the tests {uuid.uuid4()}"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN % (mark, means))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES), "TMPDIR": str(tmp_path)},
        start_new_session=True,
    ) as run:
        assert run.stdout.readline() == "started\n"
        deadline = time.monotonic() + 60
        while len(launchers(mark)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        os.killpg(run.pid, how)
        if how == signal.SIGINT:
            assert run.stdout.readline() == "stopped\n"
    assert ended_soon(mark)
    assert list(tmp_path.iterdir()) == []


# --- what the system cannot limit ---


def test_what_cannot_be_limited_is_found_and_refused():
    bare = Sandbox(LIMITS, workers=1, means=())
    assert find_unlimited(bare) == list(probe.UNLIMITED)
    with pytest.raises(
        SandboxError, match=r"from reading and changing files of yours nor from .*allow=\[files,network"
    ):
        require_limits(bare, [], "allow")
    with pytest.raises(SandboxError, match=r"from using the network; .*allow=\[files,processes,network\]"):
        require_limits(bare, ["files", "processes"], "allow")
    require_limits(bare, list(probe.UNLIMITED), "allow")


@pytest.mark.parametrize(("means", "missing"), [(["seccomp"], ["files"]), (["landlock"], ["network", "processes"])])
def test_each_mean_does_its_part(means, missing):
    sandbox = Sandbox(LIMITS, workers=1, means=means)
    if sandbox.run(Job(code="", inputs=[""], count=1)).means != means:
        pytest.skip(f"this system has no {means[0]}")
    assert find_unlimited(sandbox) == missing


def test_the_warm_process_is_replaced(walls):
    job = Job(code="print(1)", inputs=[""], is_right=lambda _, text: text == "1\n", count=1)
    for _ in range(2):
        assert walls.run(job).ends == ["passed"]
        process = walls._starter._process
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert walls.run(job).ends == ["passed"]


def test_another_system_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="on Linux only, and this is darwin"):
        find_unlimited(Sandbox(LIMITS, workers=1))


def test_trouble_of_the_sandbox_itself_is_no_fault_of_a_program():
    sandbox = Sandbox(LIMITS, workers=1)
    assert sandbox.run(calls("", ["assert f()"])).ends == ["error"]
    job = Job(code="", inputs=[None], count=1)
    with pytest.raises(SandboxError, match="has failed: AttributeError: 'NoneType' object has no attribute 'encode'"):
        sandbox.run(job)


@pytest.mark.parametrize("ended", [False, True], ids=["heard by reading", "heard by sending"])
def test_a_sandbox_that_cannot_start_says_why(monkeypatch, ended):
    """Its process ends at once: after it has been sent something, or before."""
    monkeypatch.setattr(starting, "_PROGRAM", f"import time; time.sleep({1 - ended}); raise SystemExit('it is broken')")
    start = starting.Starter._start

    def start_and_wait(self):
        connection = start(self)
        if ended:
            self._process.wait()
        return connection

    monkeypatch.setattr(starting.Starter, "_start", start_and_wait)
    with pytest.raises(SandboxError, match="cannot be started: it is broken"):
        Sandbox(LIMITS, workers=1).run(Job(code="", inputs=[""], count=1))
