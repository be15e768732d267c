use super::*;

#[test]
fn most_files_have_none() {
    assert_eq!(measure(&File::open("/proc/self/exe").unwrap()), None);
    assert_eq!(measure(&File::open("/dev/null").unwrap()), None);
}

/// As it is in the header, which the kernel of a test machine need not have been built with.
#[test]
fn the_request_is_the_one_of_the_kernel() {
    let room = Measurement { algorithm: 0, size: BYTES, digest: [0; BYTES as usize] };
    assert_eq!(room.opcode(), 0xc004_6686);
}
