//! Descriptors that go from one process to another over a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Bytes of a pair's control message.
const SPACE: usize = rustix::cmsg_space!(ScmRights(2));

/// Passes a pair on, with a byte that carries it.
pub(super) fn send(socket: impl AsFd, pair: [OwnedFd; 2]) -> io::Result<()> {
    let borrowed = [pair[0].as_fd(), pair[1].as_fd()];
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)), "the space is that of two descriptors");
    let sent = retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL));
    Ok(sent.map(drop)?)
}

/// Waits for a pair; none at the end of the stream.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<[OwnedFd; 2]>> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags))?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let rights = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(all) => Some(all.collect::<Vec<_>>()),
        _ => None,
    });
    let pair = rights.and_then(|all| all.try_into().ok());
    pair.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_pair_arrives_in_its_order() {
        let (here, there) = UnixStream::pair().unwrap();
        let ((mut a, b), (mut c, d)) = (io::pipe().unwrap(), io::pipe().unwrap());
        send(&here, [b.into(), d.into()]).unwrap();
        let [b, d] = receive(&there).unwrap().unwrap();
        for (fd, text) in [(b, "one"), (d, "two")] {
            std::fs::File::from(fd).write_all(text.as_bytes()).unwrap();
        }
        let mut got = [String::new(), String::new()];
        // They end, so that nobody holds the writing ends any more.
        a.read_to_string(&mut got[0]).unwrap();
        c.read_to_string(&mut got[1]).unwrap();
        assert_eq!(got, ["one", "two"]);
        drop(here);
        assert!(receive(&there).unwrap().is_none());
    }

    #[test]
    fn a_byte_without_a_pair_is_refused() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&[0]).unwrap();
        assert_eq!(receive(&there).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
