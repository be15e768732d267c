use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;

#[test]
fn a_new_key_is_its_owners_alone_and_signs_when_read_again() {
    let dir = tempfile::tempdir().unwrap();
    for algorithm in Algorithm::ALL {
        let path = dir.path().join(algorithm.word());
        let made = SigningKey::create(&path, algorithm, Some("a".parse().unwrap())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let read = SigningKey::load(&path, Some("a".parse().unwrap())).unwrap();
        assert_eq!((read.public(), read.public().algorithm()), (made.public(), algorithm));
        assert!(made.public().verifies(b"m", &read.sign(b"m").unwrap()));
        let unnamed = SigningKey::load(&path, None).unwrap();
        assert_eq!(unnamed.public().kid().as_str(), made.public().thumbprint());
        assert!(!format!("{made:?}").contains("secret"));
    }
}

#[test]
fn a_file_that_is_there_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "precious").unwrap();
    symlink(dir.path().join("elsewhere"), &link).unwrap();
    for path in [&file, &link, &dir.path().to_owned()] {
        let error = SigningKey::create(path, Algorithm::EdDsa, None).unwrap_err();
        assert!(matches!(error, KeyFileError::Exists { .. }), "{error}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(!dir.path().join("elsewhere").exists());
    let nowhere = dir.path().join("no/file");
    let error = SigningKey::create(&nowhere, Algorithm::EdDsa, None).unwrap_err();
    assert!(matches!(error, KeyFileError::Unwritable { .. }), "{error}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    SigningKey::create(&path, Algorithm::EdDsa, None).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = SigningKey::load(&path, None).unwrap_err();
        assert!(matches!(error, KeyFileError::Exposed { .. }), "{mode:o}: {error}");
    }
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    SigningKey::load(&path, None).unwrap();
}

#[test]
fn what_is_no_key_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    SigningKey::create(&path, Algorithm::EdDsa, None).unwrap();
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    for odd in [&link, &dir.path().to_owned()] {
        let error = SigningKey::load(odd, None).unwrap_err();
        assert!(matches!(error, KeyFileError::NotAFile { .. }), "{error}");
    }
    let missing = SigningKey::load(&dir.path().join("none"), None).unwrap_err();
    assert!(matches!(missing, KeyFileError::Unreadable { .. }), "{missing}");
    let sound = fs::read_to_string(&path).unwrap();
    let large = sound.clone() + &" ".repeat(16 << 10);
    let cut = pem::encode(&pem::decode(&sound).unwrap()[..40]);
    // An X25519 key has the same form and another OID (RFC 8410 section 3).
    let x25519 = pem::encode(&{
        let mut der = pem::decode(&sound).unwrap();
        let oid = der.windows(3).position(|bytes| bytes == [0x2b, 0x65, 0x70]).unwrap();
        der[oid + 2] = 0x6e;
        der
    });
    for text in ["", "\u{e9}", &large, &cut, &x25519, &(sound.clone() + &sound)] {
        fs::write(&path, text).unwrap();
        let error = SigningKey::load(&path, None).unwrap_err();
        assert!(matches!(error, KeyFileError::NotAKey { .. }), "{error}");
    }
    fs::write(&path, b"\xff").unwrap();
    assert!(matches!(SigningKey::load(&path, None), Err(KeyFileError::NotAKey { .. })));
}
