//! TPM 2.0's bytes: big-endian numbers, and lists with a 16-bit length before them (Library Part 2, "Structures").

/// A command or a structure that is being written.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Nothing yet.
    pub fn new() -> Writer {
        Writer::default()
    }
    /// A byte.
    pub fn u8(mut self, value: u8) -> Writer {
        self.0.push(value);
        self
    }
    /// Two bytes.
    pub fn u16(mut self, value: u16) -> Writer {
        self.0.extend(value.to_be_bytes());
        self
    }
    /// Four bytes.
    pub fn u32(mut self, value: u32) -> Writer {
        self.0.extend(value.to_be_bytes());
        self
    }
    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Writer {
        self.0.extend(bytes);
        self
    }
    /// A TPM2B: two bytes of length, then the bytes. Longer ones are cut to what a length can say; none of ours is.
    pub fn sized(self, bytes: &[u8]) -> Writer {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(length).raw(&bytes[..usize::from(length)])
    }
    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A structure that is being read; every step says when there is too little.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

/// A structure that ends too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the structure ends too early")]
pub struct Short;

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }
    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Short)?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        self.take(N)?.try_into().map_err(|_| Short)
    }
    /// Two bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u16(&mut self) -> Result<u16, Short> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    /// Four bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    /// A TPM2B's bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn sized(&mut self) -> Result<&'a [u8], Short> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}
