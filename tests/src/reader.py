# A host that does everything hosts do with a mount, but execute: it reads a
# mapping, drops its pages so that the next read reaches the server, and asks
# for names, attributes and listings. Every byte is compared.
#
# Arguments: a file of the mount, a copy of it, and a directory of the mount.
# It runs until its input ends, and then prints what it did as JSON.
import json, mmap, os, random, select, sys, time

path, copy, directory = sys.argv[1:4]
expected = open(copy, "rb").read()
fd = os.open(path, os.O_RDONLY)
inode, size = os.fstat(fd).st_ino, len(expected)
mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
window = 65536
done = {"reads": 0, "wrong": 0, "errors": [], "waits": []}


def access():
    start = random.randrange(0, size) & ~4095
    if mapping[start : start + window] != expected[start : start + window]:
        done["wrong"] += 1
    done["reads"] += 1


def drop():
    mapping.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def open_anew():
    with open(path, "rb", buffering=0) as file:
        start = random.randrange(0, size)
        file.seek(start)
        if file.read(4096) != expected[start : start + 4096]:
            done["wrong"] += 1
    done["reads"] += 1


def attributes():
    now = os.stat(path)
    if (now.st_ino, now.st_size) != (inode, size):
        done["wrong"] += 1
    os.getxattr(path, "user.wasmfs.sha256")
    os.statvfs(directory)
    if os.path.basename(path) not in os.listdir(directory):
        done["wrong"] += 1
    if os.path.exists(os.path.join(directory, "absent-%d" % random.randrange(1 << 30))):
        done["wrong"] += 1


def attempt(what):
    start = time.monotonic()
    try:
        what()
    except OSError as error:
        done["errors"].append("%s: %s" % (what.__name__, error))
    done["waits"].append(time.monotonic() - start)


print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(8):
        attempt(access)
    attempt(drop)
    attempt(open_anew)
    attempt(attributes)
print(json.dumps(done))
