//! Whether 32 bytes are a public key of Ed25519 that can be trusted with anything.
//!
//! In: the bytes of a key. Out: yes, or no: not the one encoding of a point, no point of the curve
//! at all, or one of the eight of small order, under which anybody can sign any text. The library
//! finds the first two only when it verifies, and never the third. Public data only: nothing here
//! has to take the same time for every input.

/// 2^51 - 1: a limb.
const LIMB: u64 = (1 << 51) - 1;

/// An integer modulo p = 2^255 - 19, in five limbs of 51 bits, smallest first.
#[derive(Clone, Copy, Debug)]
struct Field([u64; 5]);

const ZERO: Field = Field([0; 5]);
const ONE: Field = Field([1, 0, 0, 0, 0]);
/// 121665 and 121666: the curve is -x^2 + y^2 = 1 - (121665/121666) x^2 y^2 (RFC 8032 section 5.1).
const NUMERATOR: Field = Field([121_665, 0, 0, 0, 0]);
const DENOMINATOR: Field = Field([121_666, 0, 0, 0, 0]);

/// Whether the bytes are the encoding of a point of large order.
pub(super) fn is_sound_key(bytes: &[u8; 32]) -> bool {
    let Some(y) = y_coordinate(bytes) else { return false };
    // With d = -n/m the curve says x^2 = (y^2 - 1) / (d y^2 + 1) = m (y^2 - 1) / (m - n y^2).
    let y2 = y.times(y);
    let above = DENOMINATOR.times(y2.minus(ONE));
    let below = DENOMINATOR.minus(NUMERATOR.times(y2));
    // A quotient is a square where the product is.
    above.times(below).is_square() && !has_small_order(y2)
}

/// The y coordinate; `None` where it is not written as the number below p that it is.
fn y_coordinate(bytes: &[u8; 32]) -> Option<Field> {
    let (low, high) = bytes.split_first_chunk::<16>()?;
    let (low, high) = (u128::from_le_bytes(*low), u128::from_le_bytes(*high.first_chunk()?));
    // The last bit is the sign of x.
    let high = high & (u128::MAX >> 1);
    if high == u128::MAX >> 1 && low >= u128::MAX - 18 {
        return None;
    }
    let limb = |bits: u128| u64::try_from(bits & u128::from(LIMB)).unwrap_or_default();
    let middle = low >> 102 | high << 26;
    Some(Field([limb(low), limb(low >> 51), limb(middle), limb(high >> 25), limb(high >> 76)]))
}

/// The points of order 1, 2 and 4 have y = 1, -1 and 0. Those of order 8 have y = 0 when doubled,
/// which is y^2 = -x^2, and with the curve's equation d y^4 + 2 y^2 - 1 = 0.
fn has_small_order(y2: Field) -> bool {
    let y4 = y2.times(y2);
    let eighth = DENOMINATOR.times(y2.plus(y2).minus(ONE)).minus(NUMERATOR.times(y4));
    y2.is_zero() || y2.minus(ONE).is_zero() || eighth.is_zero()
}

impl Field {
    fn plus(self, other: Self) -> Self {
        let (Self([a0, a1, a2, a3, a4]), Self([b0, b1, b2, b3, b4])) = (self, other);
        Self::carried([a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4].map(u128::from))
    }

    fn minus(self, other: Self) -> Self {
        // 4p keeps every limb from going below zero.
        const LOW: u64 = 4 * (LIMB - 18);
        const HIGH: u64 = 4 * LIMB;
        let (Self([a0, a1, a2, a3, a4]), Self([b0, b1, b2, b3, b4])) = (self, other);
        let limbs = [a0 + LOW - b0, a1 + HIGH - b1, a2 + HIGH - b2, a3 + HIGH - b3, a4 + HIGH - b4];
        Self::carried(limbs.map(u128::from))
    }

    fn times(self, other: Self) -> Self {
        let (Self(a), Self(b)) = (self, other);
        let [a0, a1, a2, a3, a4] = a.map(u128::from);
        let [b0, b1, b2, b3, b4] = b.map(u128::from);
        // 2^255 is 19 here: what is beyond the fifth limb comes back, 19 times.
        Self::carried([
            a0 * b0 + 19 * (a1 * b4 + a2 * b3 + a3 * b2 + a4 * b1),
            a0 * b1 + a1 * b0 + 19 * (a2 * b4 + a3 * b3 + a4 * b2),
            a0 * b2 + a1 * b1 + a2 * b0 + 19 * (a3 * b4 + a4 * b3),
            a0 * b3 + a1 * b2 + a2 * b1 + a3 * b0 + 19 * (a4 * b4),
            a0 * b4 + a1 * b3 + a2 * b2 + a3 * b1 + a4 * b0,
        ])
    }

    /// Brings limbs below 2^52: those of two such factors are below 2^112 before.
    fn carried(limbs: [u128; 5]) -> Self {
        let mut carry = 0_u128;
        let mut step = |limb: u128| {
            let sum = limb + carry;
            carry = sum >> 51;
            sum & u128::from(LIMB)
        };
        let [l0, l1, l2, l3, l4] = limbs;
        let [l0, l1, l2, l3, l4] = [step(l0), step(l1), step(l2), step(l3), step(l4)];
        // At most 19 * 2^61: a second round carries no more than one bit beyond the first limb.
        let first = l0 + 19 * carry;
        let low = |limb: u128| u64::try_from(limb).unwrap_or(u64::MAX);
        let second = l1 + (first >> 51);
        let third = l2 + (second >> 51);
        let mask = u128::from(LIMB);
        Self([low(first & mask), low(second & mask), low(third), low(l3), low(l4)])
    }

    fn is_zero(self) -> bool {
        // Below 2p, so it is zero as 0 or as p.
        let Self([l0, l1, l2, l3, l4]) = Self::carried(self.0.map(u128::from));
        [l0, l1, l2, l3, l4] == ZERO.0
            || [l0, l1, l2, l3, l4] == [LIMB - 18, LIMB, LIMB, LIMB, LIMB]
    }

    /// Euler's criterion: zero, or 1 to the power of (p - 1) / 2 = 2^254 - 10.
    fn is_square(self) -> bool {
        let mut power = ONE;
        for bit in (0..254).rev() {
            power = power.times(power);
            // All bits of 2^254 - 10 are set but those of 9.
            if bit != 0 && bit != 3 {
                power = power.times(self);
            }
        }
        self.is_zero() || power.minus(ONE).is_zero()
    }
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
