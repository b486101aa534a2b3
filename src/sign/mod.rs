//! Signatures: bytes in, signature out. Knows no image, no disk, no layout.
