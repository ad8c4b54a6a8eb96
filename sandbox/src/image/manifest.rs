//! What the files of an image's folder must be, under a MAC.

use std::io::Read;
use std::path::Path;

use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::recipe::Recipe;
use super::seal::{Seal, plain};
use super::{CODE, MEMORY, make};
use crate::SandboxError;
use crate::vm::Registers;

/// Its name in the folder.
pub(crate) const FILE: &str = "manifest.json";

/// The digests of a folder's files, what they were made from, and the snapshot's state that is not in them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub recipe: Recipe,
    /// A digest of all that the recipe's image is made from.
    pub key: String,
    /// The key of code, data and library alone, which outlive a change of the warm-up.
    pub code_key: String,
    #[serde(with = "digest")]
    pub code: Hash,
    #[serde(with = "digest")]
    pub data: Hash,
    #[serde(with = "digest")]
    pub library: Hash,
    #[serde(with = "digest")]
    pub memory: Hash,
    pub registers: Registers,
}

/// The file's content: a manifest and the keyed digest of it, written as compact JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    #[serde(with = "digest")]
    mac: Hash,
    manifest: Manifest,
}

/// The one part of a manifest that other versions of this program must understand.
#[derive(Deserialize)]
struct Label {
    manifest: Labelled,
}

#[derive(Deserialize)]
struct Labelled {
    recipe: Recipe,
}

impl Manifest {
    /// The manifest in `folder`, and the key it was sealed with; none where there is no such folder.
    ///
    /// # Errors
    /// [`SandboxError::Tampered`] unless it is this build's, as it was written under the cache's key.
    pub fn read(folder: &Path) -> Result<Option<(Manifest, Seal)>, SandboxError> {
        let path = folder.join(FILE);
        let json = match read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !folder.is_dir() => return Ok(None),
            json => json.unwrap_or_default(),
        };
        let seal = Seal::read(folder.parent().unwrap_or(folder))?;
        match Manifest::parse(&json, &seal).filter(|m| m.key == make::key(&m.recipe)) {
            Some(manifest) => Ok(Some((manifest, seal))),
            None => Err(SandboxError::Tampered { file: path }),
        }
    }

    /// The manifest in `folder`, of whatever build, if it is as it was written under this key.
    pub fn sealed_by(seal: &Seal, folder: &Path) -> Option<Manifest> {
        Manifest::parse(&read(&folder.join(FILE)).ok()?, seal)
    }

    fn parse(json: &[u8], seal: &Seal) -> Option<Manifest> {
        let Signed { mac, manifest } = serde_json::from_slice(json).ok()?;
        (mac == manifest.mac(seal)).then_some(manifest)
    }

    /// The file's content.
    pub fn sealed(self, seal: &Seal) -> Vec<u8> {
        let signed = Signed { mac: self.mac(seal), manifest: self };
        serde_json::to_vec_pretty(&signed).expect("plain data")
    }

    fn mac(&self, seal: &Seal) -> Hash {
        seal.text(&serde_json::to_vec(self).expect("plain data"))
    }

    /// The files that running needs and their digests, the longest to check first.
    pub fn files(&self) -> [(&'static str, Hash); 3] {
        let library = self.recipe.packages.descriptor().archive;
        [(CODE, self.code), (MEMORY, self.memory), (library, self.library)]
    }

    /// The recipe that the manifest in `folder` states, of whatever version and believed or not.
    pub fn label(folder: &Path) -> Option<Recipe> {
        let json = read(&folder.join(FILE)).ok()?;
        Some(serde_json::from_slice::<Label>(&json).ok()?.manifest.recipe)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    plain(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A digest as hexadecimal text.
mod digest {
    use blake3::Hash;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(hash.to_hex().as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
        Hash::from_hex(String::deserialize(from)?).map_err(D::Error::custom)
    }
}
