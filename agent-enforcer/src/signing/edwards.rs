//! Whether 32 bytes are a public key of Ed25519 that can be trusted with anything.
//!
//! In: the bytes of a key. Out: yes, or no: not the one encoding of a point, no point of the curve
//! at all, or one of the eight of small order, under which anybody can sign any text. The library
//! that verifies finds the first two only then, and never the third.

use curve25519_dalek::edwards::CompressedEdwardsY;

/// Whether the bytes are the one encoding of a point of large order.
pub(super) fn is_sound_key(bytes: &[u8; 32]) -> bool {
    let compressed = CompressedEdwardsY(*bytes);
    let sound = |point: curve25519_dalek::EdwardsPoint| {
        point.compress() == compressed && !point.is_small_order()
    };
    compressed.decompress().is_some_and(sound)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        hex.parse::<crate::decision::Sha256Digest>().unwrap().0
    }

    #[test]
    fn every_key_that_the_library_makes_is_sound() {
        for _ in 0..200 {
            let pair = Ed25519KeyPair::generate().unwrap();
            assert!(is_sound_key(pair.public_key().as_ref().try_into().unwrap()));
        }
        // RFC 8032 section 7.1, tests 1 and 2.
        for sound in [
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ] {
            assert!(is_sound_key(&bytes(sound)));
        }
    }

    #[test]
    fn points_of_small_order_are_no_keys() {
        for weak in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        ] {
            let mut key = bytes(weak);
            assert!(!is_sound_key(&key), "{weak}");
            key[31] |= 0x80;
            assert!(!is_sound_key(&key), "{weak} with the other sign");
        }
    }

    #[test]
    fn numbers_from_p_on_are_no_keys() {
        for high in 0xed..=0xff_u8 {
            let mut key = [0xff; 32];
            (key[0], key[31]) = (high, 0x7f);
            assert!(!is_sound_key(&key), "{high:x}");
        }
    }

    #[test]
    fn numbers_that_are_no_point_are_no_keys() {
        // y from 0 to 63, by another implementation; 0 and 1 are points, but of small order.
        const POINTS: &str = "0001111001100011101101011111111011010101101110001001101111101111";
        for (y, expected) in (0..).zip(POINTS.chars()) {
            let mut key = [0; 32];
            key[0] = y;
            assert_eq!(is_sound_key(&key), expected == '1', "{y}");
            // p - y has the same square.
            let negative = u64::from_le_bytes([0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
            key = [0xff; 32];
            key[..8].copy_from_slice(&(negative - u64::from(y)).to_le_bytes());
            key[31] = 0x7f;
            assert_eq!(is_sound_key(&key), expected == '1', "-{y}");
        }
    }
}
