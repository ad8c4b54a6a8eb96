# ---- a host file
# none | FileNotFoundError: [Errno 44] No such file or directory: '/etc/passwd' | line 1
open('/etc/passwd')
# ---- a host file, from here
# none | FileNotFoundError: [Errno 44] No such file or directory: '../../../../etc/passwd' | line 1
open('../../../../etc/passwd')
# ---- a host file, through the library's folder
# none | PermissionError: [Errno 76] Capabilities insufficient: '/usr/local/lib/../../../etc/passwd' | line 1
open('/usr/local/lib/../../../etc/passwd')
# ---- dots inside the folder's own path
# none | PermissionError: [Errno 76] Capabilities insufficient: '/usr/local/lib/../lib/python315.zip' | line 2
import os
os.stat('/usr/local/lib/../lib/python315.zip').st_size > 10**6
# ---- the root
# none | FileNotFoundError: [Errno 44] No such file or directory: '/' | line 2
import os
os.listdir('/')
# ---- the library's folder
# none | - | []
import os
os.listdir('/usr/local/lib')
# ---- proc
# none | FileNotFoundError: [Errno 44] No such file or directory: '/proc/self/environ' | line 1
open('/proc/self/environ')
# ---- dev
# none | FileNotFoundError: [Errno 44] No such file or directory: '/dev/mem' | line 1
open('/dev/mem', 'rb')
# ---- a new file
# none | FileNotFoundError: [Errno 44] No such file or directory: 'x.txt' | line 1
open('x.txt', 'w')
# ---- a new file beside the library
# none | OSError: [Errno 69] Read-only file system: '/usr/local/lib/new' | line 1
open('/usr/local/lib/new', 'w')
# ---- the library, to write
# none | OSError: [Errno 8] Bad file descriptor | line 1
open('/usr/local/lib/python315.zip', 'r+b', buffering=0).write(b'x')
# ---- the library, to truncate
# none | OSError: [Errno 69] Read-only file system: '/usr/local/lib/python315.zip' | line 2
import os
os.truncate('/usr/local/lib/python315.zip', 0)
# ---- the library, removed
# none | OSError: [Errno 69] Read-only file system: '/usr/local/lib/python315.zip' | line 2
import os
os.remove('/usr/local/lib/python315.zip')
# ---- the library, renamed
# none | OSError: [Errno 69] Read-only file system: '/usr/local/lib/python315.zip' -> '/usr/local/lib/x' | line 2
import os
os.rename('/usr/local/lib/python315.zip', '/usr/local/lib/x')
# ---- a folder
# none | OSError: [Errno 69] Read-only file system: '/usr/local/lib/new' | line 2
import os
os.mkdir('/usr/local/lib/new')
# ---- a symbolic link
# none | OSError: [Errno 69] Read-only file system: '/etc' -> '/usr/local/lib/etc' | line 2
import os
os.symlink('/etc', '/usr/local/lib/etc')
# ---- a hard link
# none | FileNotFoundError: [Errno 44] No such file or directory: '/etc/passwd' -> '/usr/local/lib/passwd' | line 2
import os
os.link('/etc/passwd', '/usr/local/lib/passwd')
# ---- reading a link
# none | OSError: [Errno 28] Invalid argument: '/usr/local/lib/python315.zip' | line 2
import os
os.readlink('/usr/local/lib/python315.zip')
# ---- a NUL in a path
# none | ValueError: embedded null byte | line 1
open('/usr/local/lib/python315.zip\0/etc/passwd')
# ---- a path that never ends
# none | - | Filename too long\n
try: open('/usr/local/lib/' + 'x/' * 5000)
except OSError as e: print(e.strerror)
# ---- descriptors that nobody opened
# none | - | []\n
import os
found = []
for fd in range(5, 100):
    try:
        os.fstat(fd)
        found.append(fd)
    except OSError: pass
print(found)
# ---- all the descriptors there are
# none | - | 59 No file descriptors available\n
held = []
try:
    while True: held.append(open('/usr/local/lib/python315.zip', 'rb', buffering=0))
except OSError as e: print(len(held), e.strerror)
# ---- writing through a folder's descriptor
# none | OSError: [Errno 8] Bad file descriptor | line 2
import os
os.write(4, b'x')
# ---- a temporary file
# none | FileNotFoundError: [Errno 44] No usable temporary directory found in ['/tmp', '/tmp', '/var/tmp', '/usr/tmp', '/'] | line 2
import tempfile
tempfile.TemporaryFile()
# ---- where temporary files would go
# none | FileNotFoundError: [Errno 44] No usable temporary directory found in ['/tmp', '/tmp', '/var/tmp', '/usr/tmp', '/'] | line 2
import tempfile
tempfile.mkdtemp()
# ---- the working folder
# none | FileNotFoundError: [Errno 44] No such file or directory: '/usr/local' | line 3 | /\n
import os
print(os.getcwd())
os.chdir('/usr/local')
# ---- the environment
# none | - | HOME=/ NO_COLOR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 PYTHONTZPATH= PYTHON_COLORS=0 TMPDIR=/tmp\n
import os
print(*(f'{k}={v}' for k, v in sorted(os.environ.items())))
# ---- the machine
# none | - | [''] /usr/local/bin/python.wasm wasi (none) wasm32 /\n
import os, platform, sys
print(sys.argv, sys.executable, sys.platform, platform.node(), platform.machine(), os.path.expanduser('~'))
# ---- processes
# none | - | ['popen']\n
import os
print([name for name in ('fork', 'system', 'execv', 'kill', 'spawnv', 'popen', 'getppid', 'posix_spawn', 'pipe') if hasattr(os, name)])
# ---- the process's number
# none | - | 42\n
import os
print(os.getpid())
# ---- a command
# none | OSError: [Errno 58] wasi does not support processes. | line 2
import subprocess
subprocess.run(['ls'])
# ---- a shell
# none | OSError: [Errno 58] wasi does not support processes. | line 2
import os
os.popen('ls')
# ---- a thread
# none | RuntimeError: can't start new thread | line 2
import threading
threading.Thread(target=print).start()
# ---- a raw thread
# none | RuntimeError: can't start new thread | line 2
import _thread
_thread.start_new_thread(print, ())
# ---- a pool of threads
# none | RuntimeError: can't start new thread | line 2
from concurrent.futures import ThreadPoolExecutor
ThreadPoolExecutor().submit(print)
# ---- a timer
# none | RuntimeError: can't start new thread | line 2
import threading
threading.Timer(0, print).start()
# ---- a process
# none | AttributeError: module 'os' has no attribute 'WNOHANG' | line 2
import multiprocessing
multiprocessing.Process(target=print).start()
# ---- shared memory
# none | ModuleNotFoundError: No module named '_posixshmem' | line 1
from multiprocessing import shared_memory
shared_memory.SharedMemory(create=True, size=10)
# ---- subinterpreters
# none | ModuleNotFoundError: No module named '_interpreters' | line 1
import concurrent.interpreters
concurrent.interpreters.create()
# ---- asyncio, which needs a socket
# none | OSError: [Errno 58] Not supported | line 5
import asyncio
async def f():
    await asyncio.sleep(1)
    return 5
asyncio.run(f())
# ---- a socket
# none | OSError: [Errno 58] Not supported | line 2
import socket
socket.socket()
# ---- a connection
# none | AttributeError: module '_socket' has no attribute 'getaddrinfo' | line 2
import socket
socket.create_connection(('127.0.0.1', 80))
# ---- a name looked up
# none | AttributeError: module '_socket' has no attribute 'getaddrinfo' | line 2
import socket
socket.getaddrinfo('localhost', 80)
# ---- a page
# none | AttributeError: module '_socket' has no attribute 'getaddrinfo' | line 2
import urllib.request
urllib.request.urlopen('http://localhost')
# ---- a page, without urllib
# none | AttributeError: module '_socket' has no attribute 'getaddrinfo' | line 2
import http.client
http.client.HTTPConnection('localhost').request('GET', '/')
# ---- ssl
# none | ModuleNotFoundError: No module named '_ssl' | line 1
import ssl
# ---- select
# none | - | ([0], [], [])
import select
select.select([0], [], [], 1)
# ---- poll
# none | - | []
import select
select.poll().poll(1)
# ---- fcntl
# none | ModuleNotFoundError: No module named 'fcntl' | line 1
import fcntl
fcntl.fcntl(1, 1)
# ---- resource
# none | ModuleNotFoundError: No module named 'resource' | line 1
import resource
resource.setrlimit(0, (1, 1))
# ---- mmap of a file
# none | OSError: mmap is unavailable on wasm32-wasi | line 2
import mmap
mmap.mmap(4, 0)
# ---- a foreign library
# none | OSError: ctypes is unavailable on wasm32-wasi | line 2
import ctypes
ctypes.CDLL('libc.so.6')
# ---- an extension module loaded from a file
# none | ImportError: dlopen not implemented | line 3
import importlib.machinery, importlib.util
loader = importlib.machinery.ExtensionFileLoader('x', '/usr/lib/x.so')
importlib.util.module_from_spec(importlib.util.spec_from_loader('x', loader))
# ---- an alarm
# none | AttributeError: module 'signal' has no attribute 'alarm' | line 2
import signal
signal.alarm(1)
# ---- an interval timer
# none | AttributeError: module 'signal' has no attribute 'setitimer' | line 2
import signal
signal.setitimer(0, 1)
# ---- the user
# none | ModuleNotFoundError: No module named 'pwd' | line 1
import pwd
# ---- input
# none | EOFError: EOF when reading a line | line 1
input()
# ---- the host's one call
# none | ConnectionRefusedError: no host is bound to the door | line 2
import _host
_host.call(b'anything')
# ---- a browser
# none | - | False
import webbrowser
webbrowser.open('http://localhost')
# ---- the history of a terminal
# none | ModuleNotFoundError: No module named 'readline' | line 1
import readline
# ---- the system log
# none | ModuleNotFoundError: No module named 'syslog' | line 1
import syslog
# ---- sqlite
# none | sqlite3.OperationalError: unable to open database file | line 2
import sqlite3
sqlite3.connect('/tmp/x')
# ---- a pip
# none | ModuleNotFoundError: No module named 'pip' | line 1
import pip
