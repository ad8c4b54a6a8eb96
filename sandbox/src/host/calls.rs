//! One table of the calls' signatures and effects, read by the linker (`bind`) and by the exerciser.

/// Hands every function of `wasi_snapshot_preview1` that an image may import, but `proc_exit`, to the macro `$with`: its
/// name, its parameters, and what it does to a host and a guest. Those that can only fail or do nothing say so here.
macro_rules! calls {
    ($with:ident) => {
        $with! {
            args_get(p: u32, b: u32) |h, g| h.args_get(g, p, b);
            args_sizes_get(n: u32, b: u32) |h, g| h.args_sizes_get(g, n, b);
            environ_get(p: u32, b: u32) |h, g| h.environ_get(g, p, b);
            environ_sizes_get(n: u32, b: u32) |h, g| h.environ_sizes_get(g, n, b);
            clock_res_get(id: u32, out: u32) |h, g| h.clock_res_get(g, id, out);
            clock_time_get(id: u32, _precision: u64, out: u32) |h, g| h.clock_time_get(g, id, out);
            fd_close(fd: u32) |h, _g| h.fd_close(fd);
            fd_fdstat_get(fd: u32, out: u32) |h, g| h.fd_fdstat_get(g, fd, out);
            fd_filestat_get(fd: u32, out: u32) |h, g| h.fd_filestat_get(g, fd, out);
            fd_prestat_get(fd: u32, out: u32) |h, g| h.fd_prestat_get(g, fd, out);
            fd_prestat_dir_name(fd: u32, at: u32, n: u32) |h, g| h.fd_prestat_dir_name(g, fd, at, n);
            fd_pread(fd: u32, v: u32, n: u32, offset: u64, out: u32) |h, g| h.fd_pread(g, fd, (v, n), offset, out);
            fd_read(fd: u32, v: u32, n: u32, out: u32) |h, g| h.fd_read(g, fd, (v, n), out);
            fd_write(fd: u32, v: u32, n: u32, out: u32) |h, g| h.fd_write(g, fd, (v, n), out);
            fd_seek(fd: u32, offset: i64, whence: u32, out: u32) |h, g| h.fd_seek(g, fd, offset, whence, out);
            fd_tell(fd: u32, out: u32) |h, g| h.fd_tell(g, fd, out);
            fd_readdir(fd: u32, _at: u32, _n: u32, _cookie: u64, out: u32) |h, g| h.fd_readdir(g, fd, out);
            path_filestat_get(fd: u32, _flags: u32, p: u32, n: u32, out: u32)
                |h, g| h.path_filestat_get(g, fd, (p, n), out);
            path_open(fd: u32, _lookup: u32, p: u32, n: u32, flags: u32, _rights: u64, _inherit: u64, _fdflags: u32, out: u32)
                |h, g| h.path_open(g, fd, (p, n), flags, out);
            path_readlink(fd: u32, p: u32, n: u32, _at: u32, _len: u32, _used: u32)
                |h, g| h.path_readlink(g, fd, (p, n));
            poll_oneoff(subs: u32, events: u32, n: u32, out: u32) |h, g| h.poll_oneoff(g, subs, events, n, out);
            random_get(at: u32, n: u32) |h, g| h.random_get(g, at, n);
            fd_advise(_: u32, _: u64, _: u64, _: u32) |_h, _g| Ok(());
            fd_datasync(_: u32) |_h, _g| Ok(());
            fd_sync(_: u32) |_h, _g| Ok(());
            fd_fdstat_set_flags(_: u32, _: u32) |_h, _g| Ok(());
            sched_yield() |_h, _g| Ok(());
            fd_allocate(_: u32, _: u64, _: u64) |_h, _g| Err(Errno::ROFS);
            fd_filestat_set_size(_: u32, _: u64) |_h, _g| Err(Errno::ROFS);
            fd_filestat_set_times(_: u32, _: u64, _: u64, _: u32) |_h, _g| Err(Errno::ROFS);
            fd_pwrite(_: u32, _: u32, _: u32, _: u64, _: u32) |_h, _g| Err(Errno::ROFS);
            path_create_directory(_: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_filestat_set_times(_: u32, _: u32, _: u32, _: u32, _: u64, _: u64, _: u32) |_h, _g| Err(Errno::ROFS);
            path_link(_: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_remove_directory(_: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_rename(_: u32, _: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_symlink(_: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_unlink_file(_: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            fd_renumber(_: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
            sock_accept(_: u32, _: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
            sock_recv(_: u32, _: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
            sock_send(_: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
            sock_shutdown(_: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
        }
    };
}
pub(super) use calls;
