//! CRC-32 of IEEE 802.3, reflected, which UEFI means by "CRC32" (UEFI 2.10 §5.3.2).

/// The checksum of `bytes`. A table has 33 sectors: speed does not matter.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_is_the_catalogue_s() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
