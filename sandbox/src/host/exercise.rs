//! Arbitrary calls with arbitrary arguments, as a hostile program could make them: for the fuzzer and for a test.

use std::sync::Arc;

use super::{Archive, Guest, Host};

/// Reads calls and their arguments from `data` and makes them on a host with 64 KiB of guest memory that holds `data` too.
///
/// # Panics
/// Where the host has a bug: by its own panic, or by keeping more output than it may.
pub fn exercise(data: &[u8]) {
    const LIMIT: usize = 100;
    let mut memory = vec![0u8; 65536];
    for (at, byte) in memory.iter_mut().zip(data.iter().cycle()) {
        *at = *byte;
    }
    let mut host = Host::new(Archive { name: "python.zip".into(), data: Arc::new(data.to_vec()) });
    host.begin(data.to_vec(), LIMIT);
    let mut input = data.iter().copied();
    while let Some(call) = input.next() {
        let mut byte = || input.next().unwrap_or(0);
        // One byte in eight chooses a whole 32-bit value, the others a small one: both ends of memory are met often.
        let mut word = || match byte() {
            b @ 0..0xE0 => u32::from(b) * 0x49,
            _ => u32::from_le_bytes([byte(), byte(), byte(), byte()]),
        };
        let (a, b, c, d) = (word(), word(), word(), word());
        let (fd, list, wide) = (a % 9, (b, c % 20), u64::from(c) << 32 | u64::from(d));
        let g = &mut Guest(&mut memory);
        let _ = match call % 22 {
            0 => host.args_get(g, a, b),
            1 => host.args_sizes_get(g, a, b),
            2 => host.environ_get(g, a, b),
            3 => host.environ_sizes_get(g, a, b),
            4 => host.clock_res_get(g, fd, b),
            5 => host.clock_time_get(g, fd, b),
            6 => host.fd_close(fd),
            7 => host.fd_fdstat_get(g, fd, b),
            8 => host.fd_filestat_get(g, fd, b),
            9 => host.fd_prestat_get(g, fd, b),
            10 => host.fd_prestat_dir_name(g, fd, b, c),
            11 => host.fd_pread(g, fd, list, wide, d),
            12 => host.fd_read(g, fd, list, d),
            13 => host.fd_write(g, fd, list, d),
            14 => host.fd_seek(g, fd, wide as i64, a % 5, b),
            15 => host.fd_tell(g, fd, b),
            16 => host.fd_readdir(g, fd, b),
            17 => host.path_filestat_get(g, fd, (b, c), d),
            18 => host.path_open(g, fd, (b, c), d, a),
            19 => host.path_readlink(g, fd, (b, c)),
            20 => host.poll_oneoff(g, a, b, c % 40, d),
            _ => host.random_get(g, a, b),
        };
        for stream in [&host.out, &host.err] {
            let (text, cut) = stream.finish();
            assert!(cut > 0 || stream.total() <= LIMIT as u64);
            // A byte that is not UTF-8 becomes a character of three.
            assert!(text.len() <= 3 * LIMIT + 64);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn arbitrary_calls_do_no_harm() {
        let mut x = 1u64;
        for len in (0..4000).step_by(3) {
            let mut data = Vec::with_capacity(len);
            for _ in 0..len {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                data.push((x >> 56) as u8);
            }
            super::exercise(&data);
        }
    }
}
