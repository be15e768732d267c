//! Private keys, for the offline command line: made, kept in a file, used to sign.
//!
//! In: a PEM file (PKCS#8) that only its owner can read, or nothing. Out: a [`SigningKey`]. A new key
//! is written for its owner only and never over a file that is there.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use jsonwebtoken::EncodingKey;
use rustix::{fs::OFlags, process::geteuid};

use super::{Algorithm, JwsError, KeyId, PublicKey, pem};

/// Largest key file, bytes. A key of these algorithms has some 250.
const FILE_LIMIT: u64 = 16 << 10;

/// A key that can sign.
pub struct SigningKey {
    public: PublicKey,
    secret: EncodingKey,
}

/// Why a key file can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be opened or read.
    #[error("{path} can't be read ({source}); name a key file that this user may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link, pipe, device or directory.
    #[error("{path} is not a regular file; name the key file itself, not a link to it")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Others could read or exchange the key.
    #[error(
        "{path} is open to others (mode {mode:03o}, uid {uid}); replace the key if they may have read it, else `chown` it to this user and `chmod 600` it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
    },
    /// Another kind of file.
    #[error(
        "{path} is not one Ed25519 or P-256 key in PKCS#8 PEM; make one with `agent-enforcer key new`"
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// There is a file already.
    #[error("{path} is there already; keys are never overwritten, name another file")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It can't be written.
    #[error("{path} can't be written ({source}); name a directory that this user may write")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The library made no key.
    #[error("no key could be made; see that the system gives random numbers, getrandom(2)")]
    NotMade,
}

impl SigningKey {
    /// Reads a key file. Without a name the key is called by its thumbprint.
    pub fn load(path: &Path, kid: Option<KeyId>) -> Result<Self, KeyFileError> {
        let text = read(path)?;
        let not_a_key = || KeyFileError::NotAKey { path: path.to_owned() };
        let der = pem::decode(&text).ok_or_else(not_a_key)?;
        Self::from_pkcs8(&der, kid).ok_or_else(not_a_key)
    }

    /// Makes a key and its file.
    pub fn create(
        path: &Path,
        algorithm: Algorithm,
        kid: Option<KeyId>,
    ) -> Result<Self, KeyFileError> {
        let der = generate(algorithm).ok_or(KeyFileError::NotMade)?;
        let key = Self::from_pkcs8(&der, kid).ok_or(KeyFileError::NotMade)?;
        write(path, pem::encode(&der).as_bytes())?;
        Ok(key)
    }

    /// A key from its PKCS#8 bytes; `None` where they are none of the two kinds.
    pub(super) fn from_pkcs8(der: &[u8], kid: Option<KeyId>) -> Option<Self> {
        let (secret, point) = if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            let x = pair.public_key().as_ref().try_into().ok()?;
            (EncodingKey::from_ed_der(der), PublicKey::ed25519(unnamed()?, x))
        } else {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok()?;
            let (x, y) = coordinates(pair.public_key().as_ref())?;
            (EncodingKey::from_ec_der(der), PublicKey::p256(unnamed()?, x, y))
        };
        let public = point.ok()?;
        let kid = kid.or_else(|| public.thumbprint().parse().ok())?;
        Some(Self { public: public.renamed(kid), secret })
    }

    /// What others verify with.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A signature in base64url.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<String, JwsError> {
        let algorithm = self.public.algorithm().library();
        jsonwebtoken::crypto::sign(message, &self.secret, algorithm)
            .map_err(|_no_signature| JwsError::NotSigned)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "private key of {:?}", self.public)
    }
}

/// A new key's PKCS#8, of the first version, which every library reads.
pub(super) fn generate(algorithm: Algorithm) -> Option<Vec<u8>> {
    let document = match algorithm {
        Algorithm::EdDsa => Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()),
        Algorithm::Es256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .and_then(|pair| pair.to_pkcs8v1()),
    };
    Some(document.ok()?.as_ref().to_vec())
}

/// The name of a key before its thumbprint is known.
fn unnamed() -> Option<KeyId> {
    "unnamed".parse().ok()
}

/// Of an uncompressed point (SEC 1 section 2.3.3).
fn coordinates(point: &[u8]) -> Option<([u8; 32], [u8; 32])> {
    let (x, y) = point.strip_prefix(&[4])?.split_first_chunk::<32>()?;
    Some((*x, y.try_into().ok()?))
}

fn read(path: &Path) -> Result<String, KeyFileError> {
    let fault = |source| KeyFileError::Unreadable { path: path.to_owned(), source };
    let not_a_file = || KeyFileError::NotAFile { path: path.to_owned() };
    // No link is followed, and a pipe without a writer holds nobody up.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            let odd = path.symlink_metadata().is_ok_and(|found| !found.is_file());
            return Err(if odd { not_a_file() } else { fault(error) });
        }
    };
    let metadata = file.metadata().map_err(fault)?;
    if !metadata.is_file() {
        return Err(not_a_file());
    }
    let (mode, uid) = (metadata.mode() & 0o7777, metadata.uid());
    let trusted = uid == 0 || uid == geteuid().as_raw();
    if mode & 0o077 != 0 || !trusted {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode, uid });
    }
    if metadata.len() > FILE_LIMIT {
        return Err(KeyFileError::NotAKey { path: path.to_owned() });
    }
    let mut text = String::new();
    match file.take(FILE_LIMIT).read_to_string(&mut text) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(KeyFileError::NotAKey { path: path.to_owned() })
        }
        Err(error) => Err(fault(error)),
        Ok(_) => Ok(text),
    }
}

fn write(path: &Path, text: &[u8]) -> Result<(), KeyFileError> {
    let fault = |source| KeyFileError::Unwritable { path: path.to_owned(), source };
    // `create_new` follows no link either.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
        |error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return KeyFileError::Exists { path: path.to_owned() };
            }
            fault(error)
        },
    )?;
    file.write_all(text).and_then(|()| file.sync_all()).map_err(fault)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(fault)
}

#[cfg(test)]
mod tests;
