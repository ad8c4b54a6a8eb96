//! Keyed digests (BLAKE3 under a secret of the cache): what tells the cache's own files from damaged and foreign ones.
//!
//! Who can read the key can forge a file; that is the cache's owner. Nobody else can, and no accident does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use blake3::{Hash, Hasher};
use rustix::fs::{SeekFrom, seek};

use crate::SandboxError;
use crate::image::store::PART;

const KEY: &str = "key";
/// Files are hashed by blocks of so many bytes, those left out that are all zero: a snapshot is to a third holes.
const BLOCK: usize = 64 << 10;

/// The cache's key.
pub(crate) struct Seal([u8; 32]);

impl Seal {
    /// The key in `root`.
    ///
    /// # Errors
    /// [`SandboxError::Tampered`] where it is absent, or is not a plain file of 32 bytes that only this user can read.
    pub fn read(root: &Path) -> Result<Seal, SandboxError> {
        let path = root.join(KEY);
        let read = || {
            let mut file = plain(&path)?;
            let meta = file.metadata()?;
            let private = meta.mode() & 0o077 == 0 && meta.uid() == rustix::process::geteuid().as_raw();
            let mut key = [0; 32];
            file.read_exact(&mut key)?;
            let whole = private && meta.len() == 32;
            whole.then_some(Seal(key)).ok_or(io::ErrorKind::InvalidData.into())
        };
        read().map_err(|_: io::Error| SandboxError::Tampered { file: path.clone() })
    }

    /// The key in `root`, or a new one where it cannot be used: then nothing in the cache is believed any more. Under the
    /// cache's lock.
    pub fn make(root: &Path) -> Result<Seal, SandboxError> {
        if let Ok(seal) = Seal::read(root) {
            return Ok(seal);
        }
        let path = root.join(KEY);
        let write = || {
            let mut key = [0; 32];
            File::open("/dev/urandom")?.read_exact(&mut key)?;
            // Made with mode 0600; a rename replaces whatever lies there.
            let mut file = tempfile::Builder::new().prefix(PART).tempfile_in(root)?;
            file.write_all(&key)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(Seal(key))
        };
        write().map_err(SandboxError::io(&path))
    }

    /// The digest of a text.
    pub fn text(&self, bytes: &[u8]) -> Hash {
        blake3::keyed_hash(&self.0, bytes)
    }

    /// The digest of a plain file's content; where it has holes is of no effect.
    pub fn file(&self, path: &Path) -> io::Result<Hash> {
        let file = plain(path)?;
        let len = file.metadata()?.len();
        let (mut content, mut places) = (Hasher::new_keyed(&self.0), Hasher::new_keyed(&self.0));
        places.update(&len.to_le_bytes());
        let mut block = vec![0; BLOCK];
        let mut at = 0;
        while let Some(data) = data_from(&file, at, len)? {
            at = data / BLOCK as u64 * BLOCK as u64;
            let bytes = &mut block[..(len - at).min(BLOCK as u64) as usize];
            file.read_exact_at(bytes, at)?;
            if bytes.iter().any(|byte| *byte != 0) {
                content.update(bytes);
                places.update(&at.to_le_bytes());
            }
            at += BLOCK as u64;
        }
        Ok(places.update(content.finalize().as_bytes()).finalize())
    }
}

/// A file that is no link, folder or device.
pub(crate) fn plain(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Where the next byte is that is not in a hole.
fn data_from(file: &File, at: u64, len: u64) -> io::Result<Option<u64>> {
    if at >= len {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(rustix::io::Errno::INVAL) => Ok(Some(at)),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_change_nothing_and_bytes_do() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::make(dir.path()).unwrap();
        let mut bytes = vec![0; 5 * BLOCK + 100];
        (bytes[7], bytes[3 * BLOCK], bytes[5 * BLOCK + 99]) = (1, 2, 3);
        let (dense, sparse) = (dir.path().join("dense"), dir.path().join("sparse"));
        std::fs::write(&dense, &bytes).unwrap();
        let file = File::create(&sparse).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for at in [7, 3 * BLOCK, 5 * BLOCK + 99] {
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
        let whole = seal.file(&dense).unwrap();
        assert_eq!(seal.file(&sparse).unwrap(), whole);
        // A bit, a block of zeros that moves, the length, the key.
        for at in [0, BLOCK, 3 * BLOCK, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            std::fs::write(&dense, &other).unwrap();
            assert_ne!(seal.file(&dense).unwrap(), whole, "{at}");
        }
        bytes.rotate_left(BLOCK);
        std::fs::write(&dense, &bytes).unwrap();
        assert_ne!(seal.file(&dense).unwrap(), whole);
        file.set_len(file.metadata().unwrap().len() + 1).unwrap();
        assert_ne!(seal.file(&sparse).unwrap(), whole);
        file.set_len(bytes.len() as u64).unwrap();
        assert_eq!(seal.file(&sparse).unwrap(), whole);
        std::fs::remove_file(dir.path().join(KEY)).unwrap();
        assert_ne!(Seal::make(dir.path()).unwrap().file(&sparse).unwrap(), whole);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_no_key_is_replaced() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY);
        assert!(matches!(Seal::read(dir.path()), Err(SandboxError::Tampered { file }) if file == path));
        let spoil: [&dyn Fn(); 4] = [
            &|| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap(),
            &|| std::fs::write(&path, [1; 31]).unwrap(),
            &|| std::fs::write(&path, [1; 33]).unwrap(),
            &|| {
                std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
                symlink("elsewhere", &path).unwrap();
            },
        ];
        for (i, spoil) in spoil.into_iter().enumerate() {
            let key = Seal::make(dir.path()).unwrap().0;
            assert_eq!(Seal::make(dir.path()).unwrap().0, key);
            spoil();
            assert!(Seal::read(dir.path()).is_err(), "{i}");
            assert_ne!(Seal::make(dir.path()).unwrap().0, key, "{i}");
            let meta = std::fs::symlink_metadata(&path).unwrap();
            assert!(meta.is_file() && meta.mode() & 0o777 == 0o600, "{i}");
        }
    }
}
