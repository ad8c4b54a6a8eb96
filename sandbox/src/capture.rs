//! Output kept in bounded memory: the beginning and the end of a stream, and how much lay between.

/// A byte stream of any length, of which at most `limit` bytes are kept: the first half and the last half.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capture {
    limit: usize,
    head: Vec<u8>,
    /// The latest bytes; up to twice what is kept, so that dropping old ones is rare.
    tail: Vec<u8>,
    total: u64,
}

impl Capture {
    pub fn new(limit: usize) -> Self {
        Capture { limit, ..Default::default() }
    }

    /// Bytes seen, kept or not.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes held, at most one and a half times the limit.
    #[cfg(any(test, feature = "fuzz"))]
    pub fn kept(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    pub fn push(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = (self.limit / 2).saturating_sub(self.head.len());
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        let keep = self.limit - self.limit / 2;
        bytes = &rest[rest.len().saturating_sub(keep)..];
        if self.tail.len() + bytes.len() > 2 * keep {
            let old = (self.tail.len() + bytes.len() - keep).min(self.tail.len());
            self.tail.drain(..old);
        }
        self.tail.extend_from_slice(bytes);
    }

    /// The text (invalid UTF-8 replaced) and the number of bytes left out of its middle, where a mark says so.
    pub fn finish(&self) -> (String, usize) {
        let keep = self.limit - self.limit / 2;
        if self.total <= self.limit as u64 {
            let all = [self.head.as_slice(), &self.tail].concat();
            return (String::from_utf8_lossy(&all).into_owned(), 0);
        }
        let head = &self.head[..floor_char(&self.head)];
        let tail = &self.tail[self.tail.len().saturating_sub(keep)..];
        let tail = &tail[ceil_char(tail)..];
        let out = (self.total - (head.len() + tail.len()) as u64) as usize;
        let (head, tail) = (String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
        (format!("{head}\n... [{out} bytes left out] ...\n{tail}"), out)
    }
}

/// The length of `bytes` without a UTF-8 sequence that its end cuts.
fn floor_char(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        _ => bytes.len(),
    }
}

/// Where the first UTF-8 sequence begins that `bytes` holds from its start.
fn ceil_char(bytes: &[u8]) -> usize {
    let continuation = |b: &&u8| **b & 0xC0 == 0x80;
    bytes.iter().take(3).take_while(continuation).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(limit: usize, chunks: &[&[u8]]) -> (String, usize) {
        let mut c = Capture::new(limit);
        chunks.iter().for_each(|b| c.push(b));
        c.finish()
    }

    #[test]
    fn short_text_is_whole() {
        assert_eq!(cut(10, &[b"hello", b"", b"world"]), ("helloworld".into(), 0));
        assert_eq!(cut(0, &[]), (String::new(), 0));
    }

    #[test]
    fn the_middle_goes_whatever_the_chunks() {
        let text: Vec<u8> = (0..1000).map(|i| b'a' + (i % 26) as u8).collect();
        let whole = cut(100, &[&text]);
        assert_eq!(whole.1, 900);
        assert!(whole.0.starts_with(std::str::from_utf8(&text[..50]).unwrap()));
        assert!(whole.0.ends_with(std::str::from_utf8(&text[950..]).unwrap()));
        assert!(whole.0.contains("[900 bytes left out]"));
        for size in [1, 7, 49, 50, 51, 99, 333] {
            assert_eq!(cut(100, &text.chunks(size).collect::<Vec<_>>()), whole, "chunks of {size}");
        }
    }

    #[test]
    fn characters_are_not_split() {
        let text = "é€😀".repeat(50);
        for limit in 0..60 {
            let (cut, out) = cut(limit, &[text.as_bytes()]);
            assert!(!cut.contains('\u{FFFD}'), "limit {limit}: {cut}");
            assert!(out >= text.len() - limit && out <= text.len() - limit + 6);
        }
    }
}
