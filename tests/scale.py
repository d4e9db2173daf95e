#!/usr/bin/env python3
"""Memory and time with many keys, through the mount's server. By hand: some minutes.

    tests/scale.py PROGRAM [PROGRAM...]     # before and after, say

For each program: the server's memory over an import of 65,000 artifacts of 13 kB and over
`ls --json` of 260,000 keys; with --million, `ls | head -1` of 1,000,000 keys as well.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time


def artifact(size, seed):
    """What the store reads of an artifact, and nothing else."""
    engine = b"\0\x0248" + b"\x18x86_64-unknown-linux-gnu" + b"\x01"
    names = b"\0.text\0.wasmtime.engine\0.shstrtab\0"
    text = (struct.pack("<Q", seed) * (size // 8 + 1))[:size]
    engine_at = 64 + len(text)
    names_at = engine_at + len(engine)
    headers_at = (names_at + len(names) + 7) // 8 * 8
    out = b"\x7fELF\2\1\1\xc8" + bytes(8) + struct.pack("<HHI", 1, 62, 1) + bytes(16)
    out += struct.pack("<QI6H", headers_at, 1, 64, 0, 0, 64, 4, 3) + text + engine + names
    out += bytes(headers_at - len(out))
    for name, kind, at, length in [
        (0, 0, 0, 0), (1, 1, 64, len(text)), (7, 1, engine_at, len(engine)),
        (24, 3, names_at, len(names)),
    ]:
        out += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, length, 0, 0, 1, 0)
    return out


class Server:
    """A store with a mount, which ends with it whatever happens."""

    def __init__(self, program, place):
        self.program, self.place = program, place
        self.env = {"HOME": place, "PATH": os.environ["PATH"]}
        self.run("mount")
        self.pid = self.status()["worker"]["pid"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        connection = self.status()["mounts"][0]["connection"]
        done = subprocess.run([self.program, "unmount"], env=self.env, timeout=60)
        if done.returncode:
            with open(f"/sys/fs/fuse/connections/{connection}/abort", "w") as abort:
                abort.write("1")

    def run(self, *args, **more):
        return subprocess.run([self.program, *args], env=self.env, check=True, **more)

    def status(self):
        text = subprocess.run([self.program, "status", "--json"], env=self.env, check=True,
                              stdout=subprocess.PIPE).stdout
        return json.loads(text)

    def memory(self):
        """Resident now and at most since the last call, in MB."""
        with open(f"/proc/{self.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        with open(f"/proc/{self.pid}/clear_refs", "w") as clear:
            clear.write("5")
        kb = lambda name: int(fields[name].split()[0]) / 1000
        return kb("VmRSS"), kb("VmHWM")

    def timed(self, what, *args):
        self.memory()
        with tempfile.TemporaryFile() as out:
            start = time.monotonic()
            client = subprocess.Popen([self.program, *args], env=self.env, stdout=out)
            _, status, usage = os.wait4(client.pid, 0)
            took = time.monotonic() - start
        assert status == 0, (args, status)
        time.sleep(2)
        resident, peak = self.memory()
        print(f"{what}: {took:.1f} s; server at most {peak:.0f} MB, {resident:.0f} MB after; "
              f"client at most {usage.ru_maxrss / 1000:.0f} MB", flush=True)


def files(directory, count, size, same):
    for n in range(count):
        if n % 1000 == 0:
            os.makedirs(f"{directory}/{n // 1000:04}")
        with open(f"{directory}/{n // 1000:04}/{n % 1000:03}.cwasm", "wb") as file:
            file.write(artifact(size, 0 if same else n))


def main():
    programs = [os.path.abspath(arg) for arg in sys.argv[1:] if arg != "--million"]
    million = "--million" in sys.argv
    top = tempfile.mkdtemp(prefix="wasmfs-scale-", dir="/var/tmp")
    try:
        files(f"{top}/small", 65_000, 13_000, same=False)
        files(f"{top}/many", 1_000_000 if million else 195_000, 16, same=True)
        for number, program in enumerate(programs):
            print(f"--- {program}", flush=True)
            place = f"{top}/{number}"
            os.makedirs(place)
            with Server(program, place) as server:
                print(f"idle: {server.memory()[0]:.0f} MB")
                server.timed("import of 65,000", "import", f"{top}/small", "--json")
            with Server(program, place) as server:
                server.run("import", f"{top}/many", "--prefix", "many", "--json",
                           stdout=subprocess.DEVNULL)
            with Server(program, place) as server:
                keys = 65_000 + (1_000_000 if million else 195_000)
                server.timed(f"ls --json of {keys}", "ls", "--json")
                times = []
                for _ in range(11):
                    start = time.monotonic()
                    subprocess.run(f"{program} ls | head -1", shell=True, env=server.env,
                                   stdout=subprocess.DEVNULL, check=True)
                    times.append(time.monotonic() - start)
                print(f"ls | head -1 of {keys}: {sorted(times)[5] * 1000:.0f} ms", flush=True)
                server.timed("engines", "engines", "--json")
            shutil.rmtree(place)
    finally:
        shutil.rmtree(top, ignore_errors=True)


main()
